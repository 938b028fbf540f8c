//! The channels of a query or key, as attention and decode walk over them.

use crate::rotary::Pairing;
use crate::{Error, HeadMap, Phase, Result};

/// How the channels of a head are cut: rotated pairs and the tail behind them, both in units of
/// eight channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channels {
    pairs: u32,
    /// Groups of four pairs.
    pair_quads: u32,
    /// Groups of eight channels that do not rotate.
    tail_quads: u32,
    block_pairs: u32,
    q_interleaved: bool,
    k_interleaved: bool,
}

impl Channels {
    /// The channels of heads of `head_dim`, of which `rotary_dim` rotate. Where pairs do not
    /// matter, all channels count as pairs of a half-split head.
    pub(crate) fn new(
        heads: &HeadMap,
        rotate_q: bool,
        head_dim: u32,
        rotary_dim: u32,
        pairing: Pairing,
    ) -> Self {
        let (rotary_dim, pairing) = match Self::have_pairs(heads, rotate_q) {
            true => (rotary_dim, pairing),
            false => (head_dim, Pairing::Half),
        };
        let pairs = rotary_dim / 2;
        Self {
            pairs,
            pair_quads: pairs.div_ceil(4),
            tail_quads: (head_dim - rotary_dim).div_ceil(8),
            block_pairs: pairing.block_pairs(rotary_dim),
            // Keys are in the cache as they were written; a query is so as well, unless it is
            // rotated on its way in.
            q_interleaved: match rotate_q {
                true => pairing.reads_interleaved(),
                false => pairing.writes_interleaved(),
            },
            k_interleaved: pairing.writes_interleaved(),
        }
    }

    /// Whether pairs matter: a query that is turned or rotated, or two scores from one query.
    fn have_pairs(heads: &HeadMap, rotate_q: bool) -> bool {
        rotate_q || heads.heads().iter().any(|head| head.phase != Phase::REAL)
    }

    /// Refuses pairs that the units cannot hold, where pairs matter.
    pub(crate) fn check(
        heads: &HeadMap,
        rotate_q: bool,
        head_dim: u32,
        rotary_dim: u32,
        pairing: Pairing,
    ) -> Result<()> {
        if !Self::have_pairs(heads, rotate_q) {
            return Ok(());
        }
        pairing.check_within(rotary_dim, head_dim)?;
        match pairing {
            Pairing::HalfBlocks(n)
                if n > 1 && !pairing.block_pairs(rotary_dim).is_multiple_of(4) =>
            {
                Err(Error::Invalid {
                    what: "rotary_dim",
                    needed: "a multiple of 8 in every block",
                    got: format!("{rotary_dim} in {n} blocks"),
                })
            }
            _ => Ok(()),
        }
    }

    /// Units of eight channels.
    pub(crate) fn units(&self) -> u32 {
        self.pair_quads + self.tail_quads
    }

    /// Groups of four pairs, and of eight channels of the tail.
    pub(crate) fn quads(&self) -> [u32; 2] {
        [self.pair_quads, self.tail_quads]
    }

    /// What the shaders call them.
    pub(crate) fn numbers(&self) -> [(&'static str, u32); 4] {
        [
            ("PAIRS", self.pairs),
            ("PAIR_QUADS", self.pair_quads),
            ("TAIL_QUADS", self.tail_quads),
            ("BLOCK_PAIRS", self.block_pairs),
        ]
    }

    /// What the shaders call them.
    pub(crate) fn flags(&self) -> [(&'static str, bool); 2] {
        [("Q_INTERLEAVED", self.q_interleaved), ("K_INTERLEAVED", self.k_interleaved)]
    }
}
