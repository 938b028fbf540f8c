//! Attention as matrix units compute it: rounded where they round.

use half::f16;

use super::attention::{Row, check_sinks};
use super::{Attended, AttentionInputs, Place};
use crate::Result;

/// As in `shaders/attention_matrix/softmax.wgsl`: a row is taken relative to 2^LIFT times its
/// largest weight, and later weights may reach 2^LAZY before it is taken anew.
const LIFT: f32 = -4.0;
const LAZY: f32 = 15.0;

/// [`attention_with`](super::attention_with) with q, k, v and weights rounded to f16 and everything
/// else in f32, as [`Precision::F16Products`](crate::Precision) has it. Its error against the f64
/// oracle is the yardstick for kernels on matrix units.
///
/// Weights are rounded relative to a maximum that lags behind the row's: it is looked for anew
/// where one of `keys_a_step` keys, [`Tile::block_k`](crate::attention::Tile::block_k) of the plan,
/// passes it by far.
///
/// # Errors
/// As [`attention_with`](super::attention_with).
pub fn attention_f16(
    inputs: &AttentionInputs<'_, f32>,
    modify: &dyn Fn(Place, f32) -> Option<f32>,
    sinks: Option<&[f64]>,
    keys_a_step: u32,
) -> Result<Attended<f32>> {
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(halves);
    let inputs = AttentionInputs { q: &q, k: &k, v: &v, ..*inputs };
    let dims = inputs.check()?;
    check_sinks(&inputs, sinks)?;
    let mut all = Attended { out: Vec::new(), lse: Vec::new() };
    dims.for_each_row(&inputs, modify, |row| {
        let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[row.head] as f32);
        let values = v[row.values..].chunks_exact(dims.v_dim.max(1));
        let (out, lse) = weighed(row, values, dims.v_dim, sink, keys_a_step.max(1) as usize);
        all.out.extend(out);
        all.lse.push(lse);
    });
    Ok(all)
}

/// The numbers as f16 has them.
fn halves(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()
}

/// A weight with the digits of f16, rounded in whole numbers.
fn rounded(weight: f32) -> f32 {
    f32::from_bits(weight.to_bits().wrapping_add(0x1000) & 0xffff_e000)
}

/// Output and natural log-sum-exp of a row.
fn weighed<'v>(
    row: &Row<f32>,
    values: impl Iterator<Item = &'v [f32]>,
    v_dim: usize,
    sink: f32,
    step: usize,
) -> (Vec<f32>, f32) {
    use core::f32::consts::{LN_2, LOG2_E};
    let mut values = values;
    // Relative to 2^m: the sum of weights, the sum of rounded ones, and what these weigh.
    let (mut m, mut l, mut l_rounded) = (f32::NEG_INFINITY, 0.0, 0.0);
    let mut acc = vec![0.0; v_dim];
    for scores in row.scores.chunks(step) {
        let top = LOG2_E * scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if top > m + LAZY {
            let alpha = (m - (top + LIFT)).exp2();
            m = top + LIFT;
            l *= alpha;
            l_rounded *= alpha;
            acc.iter_mut().for_each(|sum| *sum *= alpha);
        }
        for (&score, value) in scores.iter().zip(&mut values) {
            // A hidden key's value may be anything.
            if score == f32::NEG_INFINITY {
                continue;
            }
            let weight = (LOG2_E * score - m).exp2();
            let p = rounded(weight);
            l += weight;
            l_rounded += p;
            let p = f16::from_f32(p).to_f32();
            acc.iter_mut().zip(value).for_each(|(sum, v)| *sum += p * v);
        }
    }
    let sink = LOG2_E * sink;
    if m.max(sink) == f32::NEG_INFINITY {
        return (acc, f32::NEG_INFINITY);
    }
    let top = m.max(sink);
    let (scale, with) = ((m - top).exp2(), (sink - top).exp2());
    let factor = scale / (l_rounded * scale + with);
    acc.iter_mut().for_each(|sum| *sum *= factor);
    (acc, LN_2 * (top + (l * scale + with).log2()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::attention_with;
    use crate::rotary::Pairing;
    use crate::{HeadMap, OutputHead};

    const DIM: u32 = 16;

    /// Numbers between −1 and 1 that f16 has, rows of later positions `climb` times larger.
    fn numbers(rows: u32, climb: f32, seed: u32) -> Vec<f32> {
        let mix = |i: u32| i.wrapping_mul(0x9e37_79b9) ^ (i + seed).wrapping_mul(0x85eb_ca6b);
        let number = |i: u32| {
            let row = (i / DIM) as f32 / rows as f32;
            ((mix(mix(i)) >> 21) as f32 / 1024.0 - 1.0) * (1.0 + climb * row)
        };
        halves(&(0..rows * DIM).map(number).collect::<Vec<_>>())
    }

    fn inputs<'a, R>(
        x: [&'a [R]; 3],
        heads: &'a [OutputHead],
        rows: u32,
    ) -> AttentionInputs<'a, R> {
        let [q, k, v] = x;
        AttentionInputs {
            q,
            q_shape: [1, 1, rows, DIM],
            k,
            k_shape: [1, 1, rows, DIM],
            v,
            v_shape: [1, 1, rows, DIM],
            rotary_dim: DIM,
            pairing: Pairing::Half,
            heads,
            softmax_scale: 1.0,
            causal: true,
            q_offset: Some(-3),
            kv_lens: None,
        }
    }

    /// All that is lost on inputs in f16 is the rounding of weights, 2^-11 of each, whatever
    /// maximum they are relative to; the log-sum-exp loses nothing.
    #[test]
    fn weights_alone_are_rounded() {
        let heads = HeadMap::ropepp(1).unwrap();
        for (climb, sinks) in [(0.0, None), (40.0, None), (4.0, Some(vec![1.0, -2.0]))] {
            let x = [numbers(90, 1.0, 1), numbers(90, climb, 2), numbers(90, 0.0, 3)];
            let wide = x.each_ref().map(|x| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
            let [q, k, v] = wide.each_ref().map(Vec::as_slice);
            let exact = inputs([q, k, v], heads.heads(), 90);
            let sinks = sinks.as_deref();
            let truth = attention_with(&exact, &|_, s| Some(s), sinks).unwrap();
            let [q, k, v] = x.each_ref().map(Vec::as_slice);
            let narrow = inputs([q, k, v], heads.heads(), 90);
            let naive = attention_with(&narrow, &|_, s| Some(s), sinks).unwrap();
            let off = |x: &[f32], truth: &[f64]| {
                assert_eq!(x.len(), truth.len());
                let off = x.iter().zip(truth).map(|(&x, &t)| match f64::from(x) == t {
                    true => 0.0,
                    false => (f64::from(x) - t).abs(),
                });
                off.fold(0.0, f64::max)
            };
            for step in [8, 32] {
                let got = attention_f16(&narrow, &|_, s| Some(s), sinks, step).unwrap();
                let error = off(&got.out, &truth.out);
                assert!(error < 2.0_f64.powi(-10), "{climb} {step}: {error}");
                assert!(error > 4.0 * off(&naive.out, &truth.out), "{climb} {step}: not rounded");
                assert!(off(&got.lse, &truth.lse) <= 2.0 * off(&naive.lse, &truth.lse) + 1e-5);
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_and_keeps_what_f16_has() {
        for x in [1.0, 1.0 + 2.0_f32.powi(-10), 1024.0, 3.0 * 2.0_f32.powi(-14), 0.0] {
            assert_eq!(rounded(x), x);
        }
        assert_eq!(rounded(1.0 + 1.9 * 2.0_f32.powi(-12)), 1.0);
        assert_eq!(rounded(1.0 + 2.1 * 2.0_f32.powi(-12)), 1.0 + 2.0_f32.powi(-10));
        assert!(rounded(f32::NAN).is_nan());
    }
}
