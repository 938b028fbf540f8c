//! Which two channels of a head form a rotated pair.

use crate::{Error, Result};

/// Which way a pair turns as the position grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Turn {
    /// By +θ: (a, b) → (a cos θ − b sin θ, b cos θ + a sin θ). All models but few.
    #[default]
    Forward,
    /// By −θ: (a, b) → (a cos θ + b sin θ, b cos θ − a sin θ) (nanochat). Scores of two rotated
    /// vectors come out as under the reverse distance, so the two directions are not the same
    /// model. It is the sign of the table's sines, hence all kernels and the oracle have it.
    Backward,
}

/// How the `rotary_dim / 2` pairs of a head lie in memory. Pair `j` turns by the angle
/// `position * inv_freq[j]`; its members are written `(a, b)` below, with r = `rotary_dim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Half-split (Llama, NeoX, Hugging Face): pair `j` is `(j, j + r/2)`.
    Half,
    /// Interleaved (GPT-J, RoFormer, Cohere, GLM): pair `j` is `(2j, 2j + 1)`.
    Interleaved,
    /// Read interleaved, written half-split (DeepSeek-V2/V3). Cannot run in place.
    InterleavedToHalf,
    /// The head is cut into `n` equal blocks, each half-split in itself (Gemma vision: 2 blocks,
    /// one an axis). Pair `j` of block `i = j / (r/2n)` is `(c, c + r/2n)` with
    /// `c = i r/n + j mod (r/2n)`.
    HalfBlocks(u32),
}

impl Pairing {
    /// Channels that pair `j` is read from.
    pub fn input(self, j: u32, rotary_dim: u32) -> (u32, u32) {
        match self {
            Pairing::InterleavedToHalf => Pairing::Interleaved.input(j, rotary_dim),
            Pairing::Interleaved => (2 * j, 2 * j + 1),
            Pairing::Half => (j, j + rotary_dim / 2),
            Pairing::HalfBlocks(n) => {
                let half = rotary_dim / (2 * n);
                let a = j / half * 2 * half + j % half;
                (a, a + half)
            }
        }
    }

    /// Channels that pair `j` is written to.
    pub fn output(self, j: u32, rotary_dim: u32) -> (u32, u32) {
        match self {
            Pairing::InterleavedToHalf => Pairing::Half.input(j, rotary_dim),
            other => other.input(j, rotary_dim),
        }
    }

    /// Whether pairs are read from neighbouring channels, and not from two halves.
    pub(crate) fn reads_interleaved(self) -> bool {
        matches!(self, Pairing::Interleaved | Pairing::InterleavedToHalf)
    }

    /// Whether pairs are written to neighbouring channels.
    pub(crate) fn writes_interleaved(self) -> bool {
        self == Pairing::Interleaved
    }

    /// Pairs of one half-split block; at least 1, as shaders divide by it.
    pub(crate) fn block_pairs(self, rotary_dim: u32) -> u32 {
        let blocks = if let Pairing::HalfBlocks(n) = self { n.max(1) } else { 1 };
        (rotary_dim / 2 / blocks).max(1)
    }

    /// [`Pairing::check`] where something rotates, within a head of `head_dim` channels.
    pub(crate) fn check_within(self, rotary_dim: u32, head_dim: u32) -> Result<()> {
        if rotary_dim == 0 || rotary_dim > head_dim {
            return Err(Error::Invalid {
                what: "rotary_dim",
                needed: "even, from 2 to head_dim",
                got: format!("{rotary_dim} of {head_dim}"),
            });
        }
        self.check(rotary_dim)
    }

    /// Refuses a rotary dimension that cannot be cut into these pairs.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `rotary_dim` is odd, or no multiple of `2n` for
    /// [`HalfBlocks`](Pairing::HalfBlocks)`(n)`, or n is 0.
    pub fn check(self, rotary_dim: u32) -> Result<()> {
        let (needed, fits) = match self {
            Pairing::HalfBlocks(n) => (
                "a multiple of 2n for HalfBlocks(n), n > 0",
                n.checked_mul(2).is_some_and(|m| m > 0 && rotary_dim.is_multiple_of(m)),
            ),
            _ => ("even", rotary_dim.is_multiple_of(2)),
        };
        if fits {
            Ok(())
        } else {
            Err(Error::Invalid { what: "rotary_dim", needed, got: rotary_dim.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_cover_every_channel_once() {
        let all = [Pairing::Half, Pairing::Interleaved, Pairing::InterleavedToHalf];
        for pairing in all.into_iter().chain([1, 2, 3, 4].map(Pairing::HalfBlocks)) {
            for rotary_dim in [24u32, 48, 96] {
                assert_eq!(pairing.check(rotary_dim), Ok(()));
                for channels in [Pairing::input, Pairing::output] {
                    let mut seen: Vec<u32> = (0..rotary_dim / 2)
                        .flat_map(|j| <[u32; 2]>::from(channels(pairing, j, rotary_dim)))
                        .collect();
                    seen.sort_unstable();
                    assert!(seen.into_iter().eq(0..rotary_dim), "{pairing:?} {rotary_dim}");
                }
            }
        }
    }

    #[test]
    fn one_block_is_the_half_split() {
        for j in 0..16 {
            assert_eq!(Pairing::HalfBlocks(1).input(j, 32), Pairing::Half.input(j, 32));
        }
        assert_eq!(Pairing::HalfBlocks(2).input(8, 32), (16, 24));
        assert_eq!(Pairing::InterleavedToHalf.input(3, 32), (6, 7));
        assert_eq!(Pairing::InterleavedToHalf.output(3, 32), (3, 19));
    }

    #[test]
    fn refuses_what_cannot_be_paired() {
        assert!(Pairing::Half.check(7).is_err());
        for (n, rotary_dim) in [(0, 8), (2, 6), (3, 8), (u32::MAX, 8)] {
            assert!(Pairing::HalfBlocks(n).check(rotary_dim).is_err());
        }
    }
}
