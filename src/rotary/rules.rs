//! How the inverse frequencies follow from θ: every rule in use.

use super::blend::{geometric, invalid, length, mix, ordered, positive};
use super::{YarnParams, dd::Dd, dd::TAU, yarn};
use crate::Result;

/// Inverse frequencies and attention scaling of a RoPE type.
///
/// Notation: r = `rotary_dim`, i = 0 … r/2 − 1, `f_i = θ^(−2i/r)`, L0 = the context length that the
/// model was first trained with, s = `factor`, n = current length (largest position of the call
/// plus one). Scaling m multiplies both cosine and sine, hence every score by m².
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RopeRule {
    /// `f_i`, m = 1 (RoFormer, arXiv 2104.09864 §3.2.2).
    Default,
    /// Position interpolation (arXiv 2306.15595): `f_i / s`, m = 1. HF `linear`.
    Linear {
        /// Context extension s > 0.
        factor: f64,
    },
    /// Static NTK-aware scaling (bloc97 2023; YaRN paper, arXiv 2309.00071 eq. 14):
    /// `f_i` of θ' = θ·s^(r/(r−2)), m = 1.
    NtkAware {
        /// Context extension s > 0.
        factor: f64,
    },
    /// Dynamic NTK, HF `dynamic`: `f_i` of θ' = θ·(s·n/L − (s−1))^(r/(r−2)) with n = max(current
    /// length, L), m = 1. Up to the length L it is [`Default`](RopeRule::Default).
    Dynamic {
        /// Context extension s > 0.
        factor: f64,
        /// L, the model's `max_position_embeddings`.
        max_position_embeddings: u64,
    },
    /// YaRN (arXiv 2309.00071) as its authors' code and Hugging Face compute it: the ramp between
    /// `f_i / s` and `f_i` is linear in the *index* i. See [`YarnParams`].
    Yarn(YarnParams),
    /// YaRN as the paper's eq. 17–19 and the RoPE++ authors' code have it: with
    /// `ρ_i = L0·f_i/2π` rotations over the old context and
    /// `γ_i = clamp((ρ_i − α)/(β − α), 0, 1)`, the frequency is `(1−γ_i) f_i/s + γ_i f_i` and
    /// m = 0.1 ln s + 1. The ramp is linear in the *rotations*, which differs from
    /// [`Yarn`](RopeRule::Yarn) by up to 75 % of a frequency.
    YarnRotations {
        /// Context extension s > 0.
        factor: f64,
        /// L0; the RoPE++ code has 4096 built in.
        original_max_position_embeddings: u64,
        /// α: pairs with fewer rotations are interpolated fully. 1 in the paper.
        alpha: f64,
        /// β > α: pairs with more rotations are left alone. 32 in the paper.
        beta: f64,
    },
    /// Qwen's (the first) dynamic NTK, `use_dynamic_ntk`: `f_i` of θ' = θ·α^(r/(r−2)) with
    /// α = max(2^⌈log2(n/L) + 1⌉ − 1, 1), m = 1. α grows in steps, at each doubling of the length:
    /// 1 up to L, 3 up to 2L, 7 up to 4L …
    DynamicSteps {
        /// L, the length that the model was trained with (Qwen's `seq_length`).
        trained_len: u64,
    },
    /// LongRoPE (arXiv 2402.13753), HF `longrope`: `f_i / long_i` when n > L0, else
    /// `f_i / short_i`. m = `attention_factor`, or without one 1 for s ≤ 1 and else
    /// √(1 + ln s / ln L0), at every length; or the two of `mscale`.
    LongRope {
        /// r/2 divisors for n ≤ L0.
        short_factor: Vec<f64>,
        /// r/2 divisors for n > L0.
        long_factor: Vec<f64>,
        /// Context extension s > 0; it enters m only.
        factor: f64,
        /// L0 > 1.
        original_max_position_embeddings: u64,
        /// m, when the model states it.
        attention_factor: Option<f64>,
        /// m for n ≤ L0 and m for n > L0, when the model states both (Phi-3.5-MoE's
        /// `short_mscale` and `long_mscale`). Goes before `attention_factor`.
        mscale: Option<[f64; 2]>,
    },
    /// Llama 3.1, HF `llama3`: by wavelength λ = 2π/f_i. `f_i` for λ < L0/high, `f_i/s` for
    /// λ > L0/low, and between them `(1−t) f_i/s + t f_i` with
    /// t = (L0/λ − low)/(high − low). m = 1. With high = low it is a step: `f_i/s` for λ > L0/low,
    /// else `f_i` (Llama 4 Scout).
    Llama3 {
        /// Context extension s > 0.
        factor: f64,
        /// `low_freq_factor`.
        low_freq_factor: f64,
        /// `high_freq_factor` ≥ `low_freq_factor`.
        high_freq_factor: f64,
        /// L0.
        original_max_position_embeddings: u64,
    },
    /// Gemma 4, full-attention layers, HF `proportional`: the first ⌊p·D/2⌋ pairs turn by
    /// θ^(−2i/D)/s with D = `head_dim`, the others have frequency 0 and stay as they are.
    /// Needs `rotary_dim == head_dim`. m = 1.
    Proportional {
        /// p, 0 to 1.
        partial_rotary_factor: f64,
        /// Divisor s > 0 of the frequencies, 1 for none.
        factor: f64,
    },
    /// Frequencies in radians per position, as given.
    Custom {
        /// r/2 frequencies (of one axis, under [`Axial2d::Blocks`](super::Axial2d::Blocks): r/4).
        inv_freq: Vec<f64>,
        /// m.
        attention_scaling: f64,
    },
}

impl RopeRule {
    /// The RoPE++ authors' YaRN with their constants: L0 = 4096, α = 1, β = 32.
    pub fn yarn_rotations(factor: f64) -> Self {
        RopeRule::YarnRotations {
            factor,
            original_max_position_embeddings: 4096,
            alpha: 1.0,
            beta: 32.0,
        }
    }

    /// The `dim / 2` frequencies of one series, and the attention scaling.
    pub(super) fn series(
        &self,
        dim: u32,
        head_dim: u32,
        theta: f64,
        current_len: u64,
    ) -> Result<(Vec<Dd>, f64)> {
        let base = Dd::from(theta);
        let plain = || geometric(base, dim);
        let stretched = |stretch| Ok(geometric(ntk_base(base, stretch, dim)?, dim));
        let inv_freq: Result<Vec<Dd>> = match self {
            RopeRule::Default => Ok(plain()),
            RopeRule::Linear { factor } => {
                let s = Dd::from(positive("factor", *factor)?);
                Ok(plain().into_iter().map(|f| f / s).collect())
            }
            RopeRule::NtkAware { factor } => stretched(Dd::from(positive("factor", *factor)?)),
            RopeRule::Dynamic { factor, max_position_embeddings } => {
                let s = Dd::from(positive("factor", *factor)?);
                let max = length("max_position_embeddings", *max_position_embeddings)?;
                let n = Dd::from(current_len.max(*max_position_embeddings) as f64);
                stretched(s * n / max - (s - Dd::ONE))
            }
            RopeRule::DynamicSteps { trained_len } => {
                length("trained_len", *trained_len)?;
                stretched(stretch_in_steps(current_len, *trained_len))
            }
            RopeRule::Yarn(params) => return params.series(base, dim),
            RopeRule::YarnRotations { factor, original_max_position_embeddings, alpha, beta } => {
                let factor = positive("factor", *factor)?;
                let original = *original_max_position_embeddings;
                let original = length("original_max_position_embeddings", original)?;
                return yarn::rotations(&plain(), factor, original, (*alpha, *beta));
            }
            RopeRule::LongRope { .. } => return self.longrope(plain(), dim, current_len),
            RopeRule::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            } => llama3(plain(), *factor, [*low, *high], *original),
            RopeRule::Proportional { partial_rotary_factor, factor } => {
                proportional(plain(), [dim, head_dim], *partial_rotary_factor, *factor)
            }
            RopeRule::Custom { inv_freq, attention_scaling } => {
                entries("inv_freq", inv_freq.len(), dim)?;
                return Ok((inv_freq.iter().map(|&f| f.into()).collect(), *attention_scaling));
            }
        };
        Ok((inv_freq?, 1.0))
    }

    /// [`RopeRule::LongRope`] of the `dim / 2` frequencies `plain`; another rule leaves them alone.
    fn longrope(&self, plain: Vec<Dd>, dim: u32, current_len: u64) -> Result<(Vec<Dd>, f64)> {
        let RopeRule::LongRope {
            short_factor,
            long_factor,
            factor,
            original_max_position_embeddings: original,
            attention_factor,
            mscale,
        } = self
        else {
            return Ok((plain, 1.0));
        };
        let long = current_len > *original;
        let divisors = if long { long_factor } else { short_factor };
        for (what, list) in [("short_factor", short_factor), ("long_factor", long_factor)] {
            entries(what, list.len(), dim)?;
            list.iter().try_for_each(|&x| positive(what, x).map(drop))?;
        }
        let inv_freq = plain.into_iter().zip(divisors).map(|(f, &d)| f / d.into()).collect();
        let stated = match mscale {
            Some(both) => {
                both.iter().try_for_each(|&m| positive("mscale", m).map(drop))?;
                Some(both[usize::from(long)])
            }
            None => *attention_factor,
        };
        Ok((inv_freq, longrope_scaling(*factor, *original, stated)?))
    }
}

/// [`RopeRule::Llama3`] of the frequencies `plain`, with the factors of low and high ones.
fn llama3(plain: Vec<Dd>, factor: f64, [low, high]: [f64; 2], original: u64) -> Result<Vec<Dd>> {
    let s = Dd::from(positive("factor", factor)?);
    let original = length("original_max_position_embeddings", original)?;
    positive("low_freq_factor", low)?;
    if low != high {
        ordered("high_freq_factor", "at least low_freq_factor", low, high)?;
    }
    let (low, high) = (Dd::from(low), Dd::from(high));
    // t clamped to 0 … 1 is the rule's three cases in one.
    let blend = |f: Dd| {
        let turns = original * f / TAU;
        if low == high {
            return if turns < low { f / s } else { f };
        }
        let t = (turns - low) / (high - low);
        mix(f / s, f, t.max(Dd::ZERO).min(Dd::ONE))
    };
    Ok(plain.into_iter().map(blend).collect())
}

/// [`RopeRule::Proportional`] of the frequencies `plain`, whose share `p` turns.
fn proportional(plain: Vec<Dd>, [dim, head_dim]: [u32; 2], p: f64, factor: f64) -> Result<Vec<Dd>> {
    if dim != head_dim {
        let needed = "head_dim for the proportional rule, and the axes single";
        return invalid("rotary_dim", needed, dim);
    }
    if !(0.0..=1.0).contains(&p) {
        return invalid("partial_rotary_factor", "0 to 1", p);
    }
    let s = Dd::from(positive("factor", factor)?);
    let turning = (p * f64::from(head_dim) / 2.0).floor() as usize;
    let scaled = |(i, f)| if i < turning { f / s } else { Dd::ZERO };
    Ok(plain.into_iter().enumerate().map(scaled).collect())
}

/// θ·stretch^(dim/(dim−2)): the base at which the slowest pair is interpolated by `stretch`.
fn ntk_base(base: Dd, stretch: Dd, dim: u32) -> Result<Dd> {
    if dim <= 2 {
        return invalid("rotary_dim", "above 2 for NTK scaling", dim);
    }
    if stretch <= Dd::ZERO {
        return invalid("factor", "such that the stretch of theta is positive", stretch.hi);
    }
    Ok(base * stretch.powf(Dd::ratio(f64::from(dim), f64::from(dim - 2))))
}

/// α of [`RopeRule::DynamicSteps`], exactly: the smallest power of two that holds n/L, doubled,
/// less one.
fn stretch_in_steps(current_len: u64, trained_len: u64) -> Dd {
    let doublings = (0..64).find(|&k| u128::from(trained_len) << k >= u128::from(current_len));
    Dd::from((2f64.powi(doublings.unwrap_or(64) + 1)) - 1.0)
}

fn longrope_scaling(factor: f64, original: u64, given: Option<f64>) -> Result<f64> {
    let s = positive("factor", factor)?;
    if original < 2 {
        return invalid("original_max_position_embeddings", "at least 2", original);
    }
    match given {
        Some(m) => positive("attention_factor", m),
        None if s <= 1.0 => Ok(1.0),
        None => Ok((1.0 + s.ln() / (original as f64).ln()).sqrt()),
    }
}

/// Compares the length of a per-pair list.
fn entries(what: &'static str, len: usize, dim: u32) -> Result<()> {
    if len == (dim / 2) as usize {
        Ok(())
    } else {
        let needed = "a list with one entry a pair";
        invalid(what, needed, format!("{len} entries for {} pairs", dim / 2))
    }
}
