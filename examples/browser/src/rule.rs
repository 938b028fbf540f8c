//! How positions turn: the rules that the page offers, and their curves.

use phasor::rotary::{Frequencies, RopeConfig, RopeRule, YarnParams, curves};
use wasm_bindgen::prelude::*;

use crate::{Result, thrown};

/// What the sliders say.
#[derive(Clone, Copy)]
pub struct Rule<'a> {
    /// `plain`, `linear`, `ntk`, `yarn` or `longrope`.
    pub name: &'a str,
    /// Base θ.
    pub theta: f64,
    /// s: how many times longer the context gets.
    pub factor: f64,
    /// L0: the length that the model was trained with.
    pub original: u32,
}

impl Rule<'_> {
    /// The frequencies of heads of `head_dim` channels.
    pub fn frequencies(&self, head_dim: u32) -> Result<Frequencies> {
        let Self { name, theta, factor, original } = *self;
        let original = u64::from(original);
        let rule = match name {
            "plain" => RopeRule::Default,
            "linear" => RopeRule::Linear { factor },
            "ntk" => RopeRule::NtkAware { factor },
            "yarn" => RopeRule::Yarn(YarnParams::new(factor, original)),
            "longrope" => RopeRule::LongRope {
                short_factor: vec![1.0; head_dim as usize / 2],
                long_factor: rising(head_dim / 2, factor),
                factor,
                original_max_position_embeddings: original,
                attention_factor: None,
                mscale: None,
            },
            other => return Err(format!("no rule is called {other}").into()),
        };
        let config = RopeConfig { rule, ..RopeConfig::new(head_dim, theta) };
        // Longer than what the model was trained with, so that LongRoPE takes its long divisors.
        Ok(config.frequencies(original + 1)?)
    }
}

/// LongRoPE's divisors are searched for; these rise geometrically from 1 at the fastest pair to s
/// at the slowest, which is about what the searches find.
fn rising(pairs: u32, factor: f64) -> Vec<f64> {
    let last = f64::from(pairs.max(2) - 1);
    (0..pairs).map(|pair| factor.powf(f64::from(pair) / last)).collect()
}

/// c_Re and then c_Im of each distance, for heads of `head_dim` channels.
///
/// # Errors
/// Where the rule refuses its numbers.
#[wasm_bindgen]
pub fn curves(
    name: &str,
    theta: f64,
    factor: f64,
    original: u32,
    head_dim: u32,
    distances: &[u32],
) -> std::result::Result<Vec<f64>, JsError> {
    let rule = Rule { name, theta, factor, original };
    let frequencies = rule.frequencies(head_dim).map_err(thrown)?;
    let points: Vec<_> =
        distances.iter().map(|&distance| curves::characteristic(&frequencies, distance)).collect();
    let imaginary = points.iter().map(|point| point.imaginary);
    Ok(points.iter().map(|point| point.real).chain(imaginary).collect())
}
