//! What rows of attention look like, from all of their probabilities.

use super::{AttentionInputs, Real, attention, probabilities};
use crate::Result;

/// What one row of one output head attends to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics<R> {
    /// Natural log-sum-exp of the scaled scores.
    pub lse: R,
    /// −Σ p ln p, in nats.
    pub entropy: R,
    /// Σ p |distance|, in tokens.
    pub mean_distance: R,
    /// Probability of the keys up to the distance.
    pub mass_within: R,
    /// Probability of the keys past it.
    pub mass_beyond: R,
    /// Probability of key 0.
    pub mass_first: R,
}

/// Statistics of every row, `[B, heads, Sq]`. The distance between query i and key j is
/// `|i + q_offset − j|`; up to `distance` it counts as near.
///
/// # Errors
/// As [`attention`].
pub fn statistics<R: Real>(
    inputs: &AttentionInputs<'_, R>,
    distance: u32,
) -> Result<Vec<Statistics<R>>> {
    let lse = attention(inputs)?.lse;
    let all = probabilities(inputs)?;
    let [_, _, seq_q, _] = inputs.q_shape;
    let [_, _, seq_k, _] = inputs.k_shape;
    let offset = inputs.q_offset.unwrap_or(i64::from(seq_k) - i64::from(seq_q));
    let rows = lse.into_iter().enumerate().map(|(n, lse)| {
        let position = (n % seq_q.max(1) as usize) as i64 + offset;
        let row = &all[n * seq_k as usize..][..seq_k as usize];
        let zero = R::ZERO;
        let (mut entropy, mut mean_distance) = (zero, zero);
        let (mut mass_within, mut mass_beyond) = (zero, zero);
        for (key, &p) in row.iter().enumerate().filter(|(_, p)| **p > zero) {
            let far = position.abs_diff(key as i64);
            entropy += -(p * p.ln());
            mean_distance += p * R::from_f64(far as f64);
            *(if far <= u64::from(distance) { &mut mass_within } else { &mut mass_beyond }) += p;
        }
        let mass_first = row.first().copied().unwrap_or(zero);
        Statistics { lse, entropy, mean_distance, mass_within, mass_beyond, mass_first }
    });
    Ok(rows.collect())
}
