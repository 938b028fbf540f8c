//! The two YaRNs (arXiv 2309.00071): ramp over the index, and ramp over the rotations.

use super::blend::{geometric, length, mix, ordered, positive};
use super::dd::{Dd, TAU};
use crate::{Error, Result};

/// Parameters of YaRN as Hugging Face's `yarn` takes them.
///
/// With dim(β) = r·ln(L0/(2πβ))/(2 ln θ), lo = dim(`beta_fast`) and hi = dim(`beta_slow`), rounded
/// outwards if `truncate`, then held to lo ≥ 0 and hi ≤ r − 1 (and hi 0.001 above lo when they
/// meet): ramp_i = clamp((i − lo)/(hi − lo), 0, 1), and the frequency is
/// `f_i/s · ramp_i + f_i · (1 − ramp_i)`.
#[derive(Debug, Clone, PartialEq)]
pub struct YarnParams {
    /// Context extension s > 0.
    pub factor: f64,
    /// L0, the context length before the extension.
    pub original_max_position_embeddings: u64,
    /// Rotations over L0 above which a pair is left alone. 32.
    pub beta_fast: f64,
    /// Rotations over L0 below which a pair is interpolated fully. 1.
    pub beta_slow: f64,
    /// Attention scaling m. When it is not given, it follows from the two `mscale`s if both are
    /// given and not 0, as g(`mscale`)/g(`mscale_all_dim`), and else is g(1), where
    /// g(a) = 0.1·a·ln s + 1 for s > 1 and 1 otherwise.
    pub attention_factor: Option<f64>,
    /// See [`attention_factor`](YarnParams::attention_factor).
    pub mscale: Option<f64>,
    /// See [`attention_factor`](YarnParams::attention_factor).
    pub mscale_all_dim: Option<f64>,
    /// Round the ramp's ends to whole indices. True in all but gpt-oss.
    pub truncate: bool,
}

impl YarnParams {
    /// Everything but the two lengths at its default.
    pub fn new(factor: f64, original_max_position_embeddings: u64) -> Self {
        YarnParams {
            factor,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        }
    }

    /// Attention scaling m.
    fn attention_scaling(&self) -> Result<f64> {
        let g = |a: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * a * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(m), ..) => positive("attention_factor", m),
            (None, Some(a), Some(b)) if a != 0.0 && b != 0.0 => positive("mscale", g(a) / g(b)),
            _ => Ok(g(1.0)),
        }
    }

    pub(super) fn series(&self, base: Dd, dim: u32) -> Result<(Vec<Dd>, f64)> {
        let s = Dd::from(positive("factor", self.factor)?);
        let original =
            length("original_max_position_embeddings", self.original_max_position_embeddings)?;
        positive("beta_fast", self.beta_fast)?;
        positive("beta_slow", self.beta_slow)?;
        if base <= Dd::ONE {
            let got = base.hi.to_string();
            return Err(Error::Invalid { what: "theta", needed: "above 1 for YaRN", got });
        }
        let turns_at = |beta: f64| {
            let r = Dd::from(f64::from(dim));
            r * (original / (TAU * beta.into())).ln() / (base.ln() * Dd::from(2.0))
        };
        let (mut low, mut high) = (turns_at(self.beta_fast), turns_at(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        low = low.max(Dd::ZERO);
        high = high.min(Dd::from(f64::from(dim - 1)));
        if low == high {
            high = high + Dd::from(0.001);
        }
        let blend = |(i, f): (usize, Dd)| {
            let ramp = (Dd::from(i as f64) - low) / (high - low);
            mix(f, f / s, ramp.max(Dd::ZERO).min(Dd::ONE))
        };
        let inv_freq = geometric(base, dim).into_iter().enumerate().map(blend).collect();
        Ok((inv_freq, self.attention_scaling()?))
    }
}

/// [`RopeRule::YarnRotations`](super::RopeRule::YarnRotations) over the unscaled frequencies.
pub(super) fn rotations(
    unscaled: &[Dd],
    factor: f64,
    original: Dd,
    (alpha, beta): (f64, f64),
) -> Result<(Vec<Dd>, f64)> {
    ordered("beta", "above alpha", alpha, beta)?;
    let (s, alpha, beta) = (Dd::from(factor), Dd::from(alpha), Dd::from(beta));
    let blend = |&f: &Dd| {
        let gamma = (original * f / TAU - alpha) / (beta - alpha);
        mix(f / s, f, gamma.max(Dd::ZERO).min(Dd::ONE))
    };
    Ok((unscaled.iter().map(blend).collect(), 0.1 * factor.ln() + 1.0))
}
