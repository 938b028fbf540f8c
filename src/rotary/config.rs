//! What a model says about its rotary embedding.

use super::{
    Frequencies, Pairing, PositionAxes, RopeRule, RopeTable, Turn, dd::Dd, frequencies::Parts,
};
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
    /// Which way the pairs turn.
    pub direction: Turn,
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
            direction: Turn::Forward,
            rule: RopeRule::Default,
            axes: PositionAxes::Single,
        }
    }

    /// The inverse frequencies, attention scaling and position streams.
    ///
    /// `current_len` is the largest position of the call plus one. Only [`RopeRule::Dynamic`],
    /// [`RopeRule::DynamicSteps`] and [`RopeRule::LongRope`] read it; keys that are already in a
    /// cache keep the rotation of the call that wrote them.
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
            direction: self.direction,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotary::{Axial2d, YarnParams};

    fn refused(config: RopeConfig) -> &'static str {
        match config.frequencies(1 << 20) {
            Err(Error::Invalid { what, .. }) => what,
            other => panic!("{config:?} gives {other:?}"),
        }
    }

    fn with_rule(rule: RopeRule) -> RopeConfig {
        RopeConfig { rule, ..RopeConfig::new(64, 10_000.0) }
    }

    #[test]
    fn geometry_is_checked() {
        let plain = RopeConfig::new(64, 10_000.0);
        for rotary_dim in [0, 63, 66, 128] {
            assert_eq!(refused(RopeConfig { rotary_dim, ..plain.clone() }), "rotary_dim");
        }
        assert_eq!(refused(RopeConfig::new(u32::MAX - 1, 10_000.0)), "rotary_dim");
        for theta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(refused(RopeConfig { theta, ..plain.clone() }), "theta");
        }
        for pairing in
            [Pairing::HalfBlocks(0), Pairing::HalfBlocks(3), Pairing::HalfBlocks(u32::MAX)]
        {
            assert_eq!(refused(RopeConfig { pairing, ..plain.clone() }), "rotary_dim");
        }
        for axes in [
            PositionAxes::MropeSectioned([16, 8, 9]),
            PositionAxes::MropeInterleaved([u32::MAX, u32::MAX, 34]),
        ] {
            assert_eq!(refused(RopeConfig { axes, ..plain.clone() }), "mrope_section");
        }
        let axes = PositionAxes::Axial2d(Axial2d::Alternating);
        assert_eq!(refused(RopeConfig { axes, ..RopeConfig::new(62, 10_000.0) }), "rotary_dim");
    }

    #[test]
    fn parameters_of_rules_are_checked() {
        for factor in [0.0, -2.0, f64::NAN, f64::INFINITY] {
            for rule in [
                RopeRule::Linear { factor },
                RopeRule::NtkAware { factor },
                RopeRule::Dynamic { factor, max_position_embeddings: 4096 },
                RopeRule::Yarn(YarnParams::new(factor, 4096)),
                RopeRule::yarn_rotations(factor),
                RopeRule::Proportional { partial_rotary_factor: 0.5, factor },
            ] {
                assert_eq!(refused(with_rule(rule)), "factor");
            }
        }
        let short =
            RopeConfig { rule: RopeRule::NtkAware { factor: 2.0 }, ..RopeConfig::new(2, 1e4) };
        assert_eq!(refused(short), "rotary_dim");
        let nowhere = RopeRule::Dynamic { factor: 2.0, max_position_embeddings: 0 };
        assert_eq!(refused(with_rule(nowhere)), "max_position_embeddings");
        let yarn = RopeRule::Yarn(YarnParams::new(4.0, 4096));
        assert_eq!(refused(RopeConfig { theta: 1.0, ..with_rule(yarn) }), "theta");
        let yarn = YarnParams { attention_factor: Some(-1.0), ..YarnParams::new(4.0, 4096) };
        assert_eq!(refused(with_rule(RopeRule::Yarn(yarn))), "attention_factor");
        let crossed = RopeRule::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 3.0,
            original_max_position_embeddings: 8192,
        };
        assert_eq!(refused(with_rule(crossed)), "high_freq_factor");
        for (p, rotary_dim, what) in [(1.5, 64, "partial_rotary_factor"), (0.5, 32, "rotary_dim")] {
            let rule = RopeRule::Proportional { partial_rotary_factor: p, factor: 1.0 };
            assert_eq!(refused(RopeConfig { rotary_dim, ..with_rule(rule) }), what);
        }
        for (inv_freq, what) in [(vec![1.0; 31], "inv_freq"), (vec![f64::NAN; 32], "rule")] {
            assert_eq!(
                refused(with_rule(RopeRule::Custom { inv_freq, attention_scaling: 1.0 })),
                what
            );
        }
    }

    #[test]
    fn longrope_switches_beyond_the_original_length() -> Result<()> {
        let longrope = |short: usize, long: f64| RopeRule::LongRope {
            short_factor: vec![1.0; short],
            long_factor: vec![long; 32],
            factor: 32.0,
            original_max_position_embeddings: 4096,
            attention_factor: None,
            mscale: None,
        };
        let config = with_rule(longrope(32, 4.0));
        let (short, long) = (config.frequencies(4096)?, config.frequencies(4097)?);
        assert_eq!((short.inv_freq()[0], long.inv_freq()[0]), (1.0, 0.25));
        assert_eq!(short.attention_scaling(), long.attention_scaling());
        assert_eq!(refused(with_rule(longrope(31, 4.0))), "short_factor");
        assert_eq!(refused(with_rule(longrope(32, 0.0))), "long_factor");
        Ok(())
    }

    #[test]
    fn equal_frequency_factors_are_a_step() -> Result<()> {
        let scout = RopeRule::Llama3 {
            factor: 16.0,
            low_freq_factor: 1.0,
            high_freq_factor: 1.0,
            original_max_position_embeddings: 8192,
        };
        let plain = RopeConfig::new(128, 500_000.0);
        let config = RopeConfig { rule: scout, ..plain.clone() };
        let (scaled, plain) = (config.frequencies(1)?, plain.frequencies(1)?);
        for (i, (got, f)) in scaled.inv_freq().iter().zip(plain.inv_freq()).enumerate() {
            assert_eq!(*got, if i < 35 { *f } else { f / 16.0 }, "pair {i}");
        }
        Ok(())
    }

    #[test]
    fn dynamic_ntk_in_steps() -> Result<()> {
        let config = RopeConfig {
            rule: RopeRule::DynamicSteps { trained_len: 8192 },
            ..RopeConfig::new(128, 10_000.0)
        };
        let second = |len| config.frequencies(len).map(|f| f.inv_freq()[1]);
        let stretched = |alpha: f64| {
            let theta = 10_000.0 * alpha.powf(128.0 / 126.0);
            theta.powf(-2.0 / 128.0)
        };
        for (len, alpha) in
            [(1, 1.0), (8192, 1.0), (8193, 3.0), (16384, 3.0), (16385, 7.0), (32768, 7.0)]
        {
            assert!((second(len)? - stretched(alpha)).abs() < 1e-14, "{len}");
        }
        assert!(second(u64::MAX)?.is_finite());
        Ok(())
    }

    #[test]
    fn backward_is_the_sign_of_the_sines() -> Result<()> {
        let forward = RopeConfig::new(16, 10_000.0);
        let backward = RopeConfig { direction: Turn::Backward, ..forward.clone() };
        let (forward, backward) = (forward.table(9, 9)?, backward.table(9, 9)?);
        for (f, b) in forward.entries().iter().zip(backward.entries()) {
            assert_eq!([f[0], -f[1]], *b);
        }
        Ok(())
    }

    #[test]
    fn an_empty_table_and_one_that_fits_nowhere() -> Result<()> {
        let frequencies = RopeConfig::new(1 << 14, 10_000.0).frequencies(1)?;
        assert!(frequencies.table(0)?.entries().is_empty());
        assert!(matches!(
            frequencies.table(u32::MAX),
            Err(Error::Invalid { what: "positions", .. })
        ));
        Ok(())
    }
}
