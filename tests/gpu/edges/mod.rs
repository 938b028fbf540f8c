//! Numbers at the edge: what is infinite, NaN, denormal, huge, equal or hidden, and sizes at the
//! ends. What is held here is what the crate's docs promise under "Numbers at the edge".

mod attention;
pub mod far;
mod kernels;
mod sizes;

use phasor_kit::tolerance::{Bound, compare};

use phasor::KernelKind;

use crate::harness::{KernelTests, Result};

/// The test of each kernel that says how far a NaN gets, or why there is none.
const KERNELS: KernelTests = [
    (KernelKind::Attention, Ok(attention::a_nan_spoils_what_sees_it_and_nothing_else)),
    (KernelKind::AttentionBackward, Err("it may reach every gradient of its sequence")),
    (KernelKind::Decode, Ok(kernels::decode_keeps_a_nan_to_the_rows_that_see_it)),
    (KernelKind::KvAppend, Ok(kernels::quantised_caches_lose_no_nan)),
    (KernelKind::KvMove, Ok(kernels::moved_rows_keep_a_nan_to_its_pair)),
    (
        KernelKind::LinearAttention,
        Ok(kernels::causal_linear_attention_keeps_a_nan_from_earlier_queries),
    ),
    (KernelKind::LinearAttentionBackward, Err("it may reach every gradient of its sequence")),
    (KernelKind::Merge, Ok(kernels::merge_loses_no_nan)),
    (KernelKind::Rope, Ok(kernels::rotation_keeps_a_nan_to_its_pair)),
    (KernelKind::Scores, Ok(kernels::scores_and_statistics_at_the_edge)),
];

#[test]
fn every_kernel_has_a_row() {
    assert_eq!(KernelKind::not_once(KERNELS.map(|(kernel, _)| kernel)), []);
}

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
