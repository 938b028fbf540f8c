//! What a model says about its rotary embedding.

use super::{Frequencies, Pairing, PositionAxes, RopeRule, RopeTable, dd::Dd, frequencies::Parts};
use crate::{Error, Result};

/// A model's rotary embedding: head geometry, frequencies, pairing and position streams.
///
/// The fields are public; take [`new`](RopeConfig::new) and overwrite what differs:
///
/// ```
/// use phasor::rotary::{Pairing, RopeConfig, RopeRule};
///
/// # fn main() -> phasor::Result<()> {
/// let config = RopeConfig {
///     rotary_dim: 32, // partial rotary: channels 32..64 are left alone
///     pairing: Pairing::Interleaved,
///     rule: RopeRule::Linear { factor: 4.0 },
///     ..RopeConfig::new(64, 10_000.0)
/// };
/// let table = config.table(4096, 4096)?;
/// assert_eq!(table.entries().len(), 4096 * 16);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Channels of a head, D.
    pub head_dim: u32,
    /// Leading channels that are rotated, r; even, at most `head_dim`.
    pub rotary_dim: u32,
    /// Base θ of the geometric series θ^(−2i/r).
    pub theta: f64,
    /// Which two channels form pair `j`.
    pub pairing: Pairing,
    /// How the inverse frequencies follow from θ.
    pub rule: RopeRule,
    /// Which position stream drives which pair.
    pub axes: PositionAxes,
}

/// Far above any model; it keeps a nonsensical configuration from asking for gigabytes.
const MAX_ROTARY_DIM: u32 = 1 << 16;

impl RopeConfig {
    /// Plain RoPE over the whole head: [`RopeRule::Default`], [`Pairing::Half`], one position
    /// stream.
    pub fn new(head_dim: u32, theta: f64) -> Self {
        RopeConfig {
            head_dim,
            rotary_dim: head_dim,
            theta,
            pairing: Pairing::Half,
            rule: RopeRule::Default,
            axes: PositionAxes::Single,
        }
    }

    /// The inverse frequencies, attention scaling and position streams.
    ///
    /// `current_len` is the largest position of the call plus one. Only
    /// [`RopeRule::Dynamic`] and [`RopeRule::LongRope`] read it; keys that are already in a cache
    /// keep the rotation of the call that wrote them.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a dimension, θ or a parameter of the rule is out of range, or the
    /// axes do not add up to `rotary_dim / 2` pairs.
    pub fn frequencies(&self, current_len: u64) -> Result<Frequencies> {
        let r = self.rotary_dim;
        let invalid = |what, needed, got: String| Err(Error::Invalid { what, needed, got });
        if r == 0 || r > self.head_dim.min(MAX_ROTARY_DIM) {
            return invalid("rotary_dim", "1 to head_dim, at most 65536", r.to_string());
        }
        self.pairing.check(r)?;
        if !(self.theta.is_finite() && self.theta > 0.0) {
            return invalid("theta", "a positive number", self.theta.to_string());
        }
        let axes = self.axes.of_pairs(r)?;
        let dim = self.axes.series_dim(r);
        let (series, attention_scaling) =
            self.rule.series(dim, self.head_dim, self.theta, current_len)?;
        let inv_freq: Vec<Dd> = self.axes.spread(&series);
        if !attention_scaling.is_finite() || !inv_freq.iter().all(|f| f.is_finite()) {
            let got = format!("{:?} at theta {}", self.rule, self.theta);
            return invalid("rule", "one with finite frequencies and scaling", got);
        }
        Ok(Frequencies::new(Parts {
            rotary_dim: r,
            pairing: self.pairing,
            inv_freq,
            attention_scaling,
            axes,
        }))
    }

    /// The cos/sin table for positions `0 .. positions`; see [`Frequencies::table`].
    ///
    /// # Errors
    /// Those of [`frequencies`](RopeConfig::frequencies) and [`Frequencies::table`].
    pub fn table(&self, positions: u32, current_len: u64) -> Result<RopeTable> {
        self.frequencies(current_len)?.table(positions)
    }
}
