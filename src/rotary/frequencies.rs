//! Inverse frequencies, and the exact reduction of `position × frequency`.

use super::{
    Pairing, QueryScaling, RopeTable, Turn,
    dd::{Dd, TAU},
};
use crate::{Error, Result};

/// One frequency a pair, with the attention scaling and the position streams.
///
/// The angle of a pair is kept in *turns*, as a 128-bit binary fraction: multiplying it by a
/// position in wrapping integer arithmetic takes out the whole turns exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies {
    rotary_dim: u32,
    pairing: Pairing,
    direction: Turn,
    /// Radians per position, rounded to f64.
    inv_freq: Vec<f64>,
    /// Turns per position, modulo one, in units of 2^-128.
    turns: Vec<u128>,
    attention_scaling: f64,
    axes: Option<Vec<u8>>,
    xpos: Option<Xpos>,
    query_scaling: Option<QueryScaling>,
}

/// The length scale of xPos (arXiv 2212.10554 §3): at position t, queries are multiplied by
/// ζ_i^((t−c)/B) and keys by its inverse, with ζ_i = (2i/r + γ)/(1 + γ). The centre c cancels in
/// the scores; it keeps the two factors near one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Xpos {
    /// B > 0; 512 in the authors' code.
    pub scale_base: f64,
    /// c; half of the sequence length in the authors' code.
    pub centre: u32,
    /// γ > 0; 0.4 in the paper.
    pub gamma: f64,
}

impl Default for Xpos {
    fn default() -> Self {
        Xpos { scale_base: 512.0, centre: 0, gamma: 0.4 }
    }
}

/// What [`RopeConfig`](super::RopeConfig) has worked out.
pub(super) struct Parts {
    pub rotary_dim: u32,
    pub pairing: Pairing,
    pub direction: Turn,
    pub inv_freq: Vec<Dd>,
    pub attention_scaling: f64,
    pub axes: Option<Vec<u8>>,
}

impl Frequencies {
    pub(super) fn new(parts: Parts) -> Self {
        Frequencies {
            rotary_dim: parts.rotary_dim,
            pairing: parts.pairing,
            direction: parts.direction,
            inv_freq: parts.inv_freq.iter().map(|f| f.hi).collect(),
            turns: parts.inv_freq.iter().map(|&f| (f / TAU).fraction()).collect(),
            attention_scaling: parts.attention_scaling,
            axes: parts.axes,
            xpos: None,
            query_scaling: None,
        }
    }

    /// The same with xPos scales: the table gets a plane for queries and one for keys.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `scale_base` or `gamma` is not positive.
    pub fn with_xpos(mut self, xpos: Xpos) -> Result<Self> {
        for (what, x) in [("scale_base", xpos.scale_base), ("gamma", xpos.gamma)] {
            super::blend::positive(what, x)?;
        }
        self.xpos = Some(xpos);
        Ok(self)
    }

    /// The same with a factor for the query of each position: the table gets a plane for queries,
    /// which has the factor in its entries, and one for keys, which has not. It reaches only the
    /// channels that are rotated, so the whole head must be (`rotary_dim` = `head_dim`); where it
    /// is not, multiply the query's rows by [`QueryScaling::at`] instead.
    pub fn with_query_scaling(mut self, scaling: QueryScaling) -> Self {
        self.query_scaling = Some(scaling);
        self
    }

    /// Rotated channels r.
    pub fn rotary_dim(&self) -> u32 {
        self.rotary_dim
    }

    /// Channels of each pair.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// Which way the pairs turn. [`cos_sin`](Frequencies::cos_sin) and the tables have it in the
    /// sign of the sine; [`inv_freq`](Frequencies::inv_freq) has not.
    pub fn direction(&self) -> Turn {
        self.direction
    }

    /// Radians per position of each of the r/2 pairs, rounded to f64. The tables are made from
    /// wider numbers than these.
    pub fn inv_freq(&self) -> &[f64] {
        &self.inv_freq
    }

    /// m, by which cosine and sine are multiplied.
    pub fn attention_scaling(&self) -> f64 {
        self.attention_scaling
    }

    /// Position stream of every pair; `None` when stream 0 drives all.
    pub fn axes(&self) -> Option<&[u8]> {
        self.axes.as_deref()
    }

    /// The factor of the query of each position, if there is one.
    pub fn query_scaling(&self) -> Option<QueryScaling> {
        self.query_scaling
    }

    /// The xPos scale, if there is one.
    pub fn xpos(&self) -> Option<Xpos> {
        self.xpos
    }

    /// m·cos and m·sin of `position × inv_freq[pair]`, right to a few units in the last place of
    /// f64 (relative, near zeros too). xPos and query scales are not in it. A pair at or beyond r/2
    /// belongs to the channels that are left alone: (1, 0).
    pub fn cos_sin(&self, position: u32, pair: usize) -> (f64, f64) {
        let Some(&turns) = self.turns.get(pair) else { return (1.0, 0.0) };
        let (cos, sin) = cos_sin_turns(turns.wrapping_mul(u128::from(position)));
        let sin = match self.direction {
            Turn::Forward => sin,
            Turn::Backward => -sin,
        };
        (cos * self.attention_scaling, sin * self.attention_scaling)
    }

    /// ζ^((position − centre)/B), the factor of a query; a key has its inverse. 1 without xPos.
    pub fn query_scale(&self, position: u32, pair: usize) -> f64 {
        self.xpos.map_or(1.0, |xpos| {
            let share = 2.0 * pair as f64 / f64::from(self.rotary_dim);
            let zeta = (share + xpos.gamma) / (1.0 + xpos.gamma);
            let distance = f64::from(position) - f64::from(xpos.centre);
            (distance / xpos.scale_base * zeta.ln()).exp()
        })
    }

    /// The table for positions `0 .. positions`, every entry within 1 ulp of f32 of its exact
    /// value (see the [module](super)).
    ///
    /// # Errors
    /// [`Error::Invalid`] when the table does not fit memory, or an xPos scale or the attention
    /// scaling leaves the range of f32.
    pub fn table(&self, positions: u32) -> Result<RopeTable> {
        RopeTable::build(self, positions)
    }

    /// Refuses xPos scales beyond f32's normal numbers. They are monotone in the position and in
    /// the pair, and pair 0 has the smallest ζ.
    pub(super) fn check_scales(&self, positions: u32) -> Result<()> {
        for position in [0, positions.saturating_sub(1)] {
            let scale = self.query_scale(position, 0) * self.attention_scaling;
            let fits = |x: f64| {
                (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&x.abs()) || x == 0.0
            };
            let inverse = self.attention_scaling / self.query_scale(position, 0);
            if !fits(scale) || !fits(inverse) {
                return Err(Error::Invalid {
                    what: "attention or xPos scale",
                    needed: "in the range of f32 (fewer positions, another centre or scale base)",
                    got: format!("{scale:e} at position {position}"),
                });
            }
        }
        Ok(())
    }
}

/// cos and sin of an angle given as a fraction of a turn in units of 2^-128.
#[inline]
fn cos_sin_turns(turns: u128) -> (f64, f64) {
    // The nearest quarter turn, and what is left: −1/8 … 1/8 of a turn, as a signed fraction.
    let quarter = turns.wrapping_add(1 << 125) >> 126;
    let rest = turns.wrapping_sub(quarter << 126) as i128;
    let (sin, cos) = (rest as f64 * (TAU.hi / 2f64.powi(128))).sin_cos();
    match quarter {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotary::RopeConfig;

    #[test]
    fn quarter_turns_are_exact() {
        let quarter = |n: u128| cos_sin_turns(n << 126);
        assert_eq!([0, 1, 2, 3].map(quarter), [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]);
    }

    #[test]
    fn eighths_meet_without_a_gap() {
        let root = core::f64::consts::FRAC_1_SQRT_2;
        for eighth in 0..8u128 {
            for step in [0u128, 1, u128::MAX] {
                let (cos, sin) = cos_sin_turns((eighth << 125).wrapping_add(step));
                let (exact_cos, exact_sin) = [
                    (1.0, 0.0),
                    (root, root),
                    (0.0, 1.0),
                    (-root, root),
                    (-1.0, 0.0),
                    (-root, -root),
                    (0.0, -1.0),
                    (root, -root),
                ][eighth as usize];
                assert!((cos - exact_cos).abs() < 2e-16 && (sin - exact_sin).abs() < 2e-16);
            }
        }
    }

    #[test]
    fn channels_beyond_the_rotated_ones_stay() -> Result<()> {
        let config = RopeConfig { rotary_dim: 8, ..RopeConfig::new(16, 10_000.0) };
        let frequencies = config.frequencies(1)?;
        assert_ne!(frequencies.cos_sin(7, 3), (1.0, 0.0));
        assert_eq!(frequencies.cos_sin(7, 4), (1.0, 0.0));
        Ok(())
    }

    #[test]
    fn xpos_refuses_scales_that_f32_cannot_hold() -> Result<()> {
        let frequencies = RopeConfig::new(64, 10_000.0).frequencies(1)?;
        assert!(
            frequencies.clone().with_xpos(Xpos { scale_base: 0.0, ..Xpos::default() }).is_err()
        );
        assert!(frequencies.clone().with_xpos(Xpos { gamma: -1.0, ..Xpos::default() }).is_err());
        let from_zero = frequencies.clone().with_xpos(Xpos::default())?;
        assert!(from_zero.table(30_000).is_ok());
        assert!(matches!(from_zero.table(40_000), Err(Error::Invalid { .. })));
        let centred = frequencies.with_xpos(Xpos { centre: 20_000, ..Xpos::default() })?;
        assert!(centred.table(40_000)?.entries().iter().flatten().all(|x| x.is_finite()));
        Ok(())
    }
}
