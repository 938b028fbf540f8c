//! Numbers at the edge: what is infinite, NaN, denormal, huge, equal or hidden, and sizes at the
//! ends. What is held here is what the crate's docs promise under "Numbers at the edge".

mod attention;
pub mod far;
mod kernels;
mod sizes;

use phasor_kit::tolerance::{Bound, compare};

use crate::harness::Result;

/// Holds a result to a truth that may be NaN or infinite: NaN where it is NaN, the same infinity
/// where it is infinite, within the bound elsewhere.
pub fn hold(name: &str, got: &[f32], truth: &[f64], bound: &Bound, shape: [u32; 4]) -> Result {
    let both_nan = |i: usize| got[i].is_nan() && truth[i].is_nan();
    let calm = |x: f64, i: usize| if both_nan(i) { 0.0 } else { x };
    let wide: Vec<f64> = (0..got.len()).map(|i| calm(f64::from(got[i]), i)).collect();
    let truth: Vec<f64> = (0..truth.len()).map(|i| calm(truth[i], i)).collect();
    compare(name, &wide, &truth, bound, shape)?;
    Ok(())
}

/// Where the truth is NaN, or infinite but for a log-sum-exp of nothing, a NaN has arrived;
/// everywhere else the bits are those of a run without it.
pub fn untouched(name: &str, got: &[f32], clean: &[f32], truth: &[f64]) -> Result {
    let mut spoilt = 0;
    for (i, ((got, clean), truth)) in got.iter().zip(clean).zip(truth).enumerate() {
        if truth.is_nan() || *truth == f64::INFINITY {
            spoilt += 1;
        } else if got.to_bits() != clean.to_bits() {
            return Err(format!("{name} {i}: {got} is not {clean} any more").into());
        }
    }
    match spoilt == 0 || spoilt == got.len() {
        true => {
            Err(format!("{name}: {spoilt} of {} spoilt, which proves nothing", got.len()).into())
        }
        false => Ok(()),
    }
}
