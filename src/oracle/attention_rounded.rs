//! Attention as matrix units compute it: rounded where they round.

use half::f16;

use super::attention::{Dims, Row, check_sinks};
use super::{Attended, AttentionInputs, Place, attention_with};
use crate::{Precision, Result};

/// As in `shaders/attention_matrix/softmax.wgsl`: a row is taken relative to 2^LIFT times its
/// largest weight, and later weights may reach 2^LAZY before it is taken anew.
const LIFT: f32 = -4.0;
const LAZY: f32 = 15.0;

/// As in `shaders/attention_matrix/parts.wgsl`: low parts of keys and values are stored so many
/// times as large.
const LOW: f32 = 2048.0;

/// What f16 rounds to infinity.
const PAST_F16: f32 = 65520.0;

/// [`attention_with`] in f32, rounded where a kernel of this precision rounds. Its error against
/// the f64 oracle is the yardstick for the kernel. With [`Precision::F32`] it is `attention_with`.
///
/// [`Precision::F16Products`]: q, k, v and weights are rounded to f16. Weights are rounded relative
/// to a maximum that lags behind the row's: it is looked for anew where one of `keys_a_step` keys,
/// [`Tile::block_k`](crate::attention::Tile::block_k) of the plan, passes it by far.
///
/// [`Precision::F16x3Products`]: each of them is the sum of two of f16, and products of two low
/// ones are left out.
///
/// # Errors
/// As [`attention_with`].
pub fn attention_rounded(
    inputs: &AttentionInputs<'_, f32>,
    modify: &dyn Fn(Place, f32) -> Option<f32>,
    sinks: Option<&[f64]>,
    precision: Precision,
    keys_a_step: u32,
) -> Result<Attended<f32>> {
    let in_parts = match precision {
        Precision::F32 => return attention_with(inputs, modify, sinks),
        Precision::F16Products => false,
        Precision::F16x3Products => true,
    };
    let dims = inputs.check()?;
    check_sinks(inputs, sinks)?;
    let parts = |x: &[f32], of: fn(f32) -> [f32; 2]| match in_parts {
        true => x.iter().map(|&x| of(x)).map(|[high, low]| (high, low)).unzip(),
        false => (halves(x), Vec::new()),
    };
    let q = match in_parts {
        true => parts_of_queries(inputs.q, dims.qk_dim),
        false => (halves(inputs.q), Vec::new()),
    };
    let (k, v) = (parts(inputs.k, parts_of), parts(inputs.v, parts_of));
    let product = |query, key| {
        let of = |q, k| dims.score(&AttentionInputs { q, k, ..*inputs }, query, key);
        let (re, im) = of(&q.0, &k.0);
        if !in_parts {
            return (re, im);
        }
        let (low_q, low_k) = (of(&q.1, &k.0), of(&q.0, &k.1));
        (re + (low_q.0 + low_k.0), im + (low_q.1 + low_k.1))
    };
    let mut all = Attended { out: Vec::new(), lse: Vec::new() };
    dims.for_each_row_by(inputs, &product, modify, |row| {
        let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[row.head] as f32);
        let (out, lse) = weighed(&dims, row, [&v.0, &v.1], sink, keys_a_step.max(1) as usize);
        all.out.extend(out);
        all.lse.push(lse);
    });
    Ok(all)
}

/// The number that f16 has for it.
fn half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn halves(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| half(x)).collect()
}

/// The digits of f16, rounded in whole numbers.
fn rounded(x: f32) -> f32 {
    f32::from_bits(x.to_bits().wrapping_add(0x1000) & 0xffff_e000)
}

/// The high part of a number; 0 where f16 may have nothing left of it, or no finite number for it.
fn high(x: f32) -> f32 {
    let within = f16::MIN_POSITIVE.to_f32()..PAST_F16;
    if within.contains(&x.abs()) { rounded(x) } else { 0.0 }
}

/// Both parts of a key's or value's number.
fn parts_of(x: f32) -> [f32; 2] {
    let high = high(x);
    [half(high), half(LOW * (x - high)) / LOW]
}

/// Both parts of queries, taken relative to a power of two near the largest number of each.
fn parts_of_queries(q: &[f32], dim: usize) -> (Vec<f32>, Vec<f32>) {
    let row = |row: &[f32]| {
        let top = row.iter().fold(0.0_f32, |top, x| top.max(x.abs()));
        let factor = if top.is_normal() { (13.0 - top.log2().floor()).exp2() } else { 1.0 };
        let part = |&x: &f32| {
            let high = high(factor * x);
            (half(high) / factor, half(factor * x - high) / factor)
        };
        row.iter().map(part).collect::<Vec<_>>()
    };
    q.chunks(dim.max(1)).flat_map(row).unzip()
}

/// Output and natural log-sum-exp of a row. Without low parts of values, weights are rounded too.
fn weighed(
    dims: &Dims,
    row: &Row<f32>,
    [high, low]: [&[f32]; 2],
    sink: f32,
    step: usize,
) -> (Vec<f32>, f32) {
    use core::f32::consts::{LN_2, LOG2_E};
    // Relative to 2^m: the sum of weights, the sum of those that products have, and what these
    // weigh.
    let (mut m, mut l, mut l_rounded) = (f32::NEG_INFINITY, 0.0, 0.0);
    let mut acc = vec![0.0; dims.v_dim];
    for (n, scores) in row.scores.chunks(step).enumerate() {
        let top = LOG2_E * scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if top > m + LAZY {
            let alpha = (m - (top + LIFT)).exp2();
            m = top + LIFT;
            l *= alpha;
            l_rounded *= alpha;
            acc.iter_mut().for_each(|sum| *sum *= alpha);
        }
        for (key, &score) in (n * step..).zip(scores) {
            // A hidden key's value may be anything.
            if score == f32::NEG_INFINITY {
                continue;
            }
            let weight = (LOG2_E * score - m).exp2();
            let p = rounded(weight);
            let values = row.values + key * dims.v_dim..row.values + (key + 1) * dims.v_dim;
            let sums = acc.iter_mut().zip(&high[values.clone()]);
            l += weight;
            if low.is_empty() {
                l_rounded += p;
                sums.for_each(|(sum, v)| *sum += half(p) * v);
            } else {
                l_rounded += weight;
                let p_low = half(weight - p);
                for ((sum, v), v_low) in sums.zip(&low[values]) {
                    *sum += half(p) * v + (p_low * v + half(p) * v_low);
                }
            }
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
                let rounded = |precision| {
                    attention_rounded(&narrow, &|_, s| Some(s), sinks, precision, step).unwrap()
                };
                let got = rounded(Precision::F16Products);
                let error = off(&got.out, &truth.out);
                assert!(error < 2.0_f64.powi(-10), "{climb} {step}: {error}");
                assert!(error > 4.0 * off(&naive.out, &truth.out), "{climb} {step}: not rounded");
                assert!(off(&got.lse, &truth.lse) <= 2.0 * off(&naive.lse, &truth.lse) + 1e-5);
                // What is lost with two parts is of the order of f32's rounding.
                let close = off(&rounded(Precision::F16x3Products).out, &truth.out);
                let naive = off(&naive.out, &truth.out);
                assert!(close < 2.0 * naive + 2e-6, "{climb} {step}: {close} where f32 is {naive}");
            }
        }
    }

    /// 22 bits, or 11 where f16 is about to end; all of what f16 has.
    #[test]
    fn two_parts_have_22_bits() {
        for n in 0..2000 {
            let x = (0.37 + n as f32 / 999.0) * 2.0_f32.powi(n % 28 - 14);
            let [high, low] = parts_of(x);
            let lost = (x * 2.0_f32.powi(-22)).max(2.0_f32.powi(-25));
            assert!((high + low - x).abs() <= lost, "{x}: {high} and {low}");
            let x = half(x);
            let [high, low] = parts_of(x);
            assert!(high + low == x && (low == 0.0 || high == 0.0), "{x}: {high} and {low}");
            let (high, low) = parts_of_queries(&[x, 3.0 * x, -0.1 * x], 3);
            assert!((high[2] + low[2] + 0.1 * x).abs() <= x * 2.0_f32.powi(-24));
        }
        // The last number of f16 and what rounds to it; past it all is infinite, in one part.
        for x in [65504.0, 65519.0] {
            assert_eq!(parts_of(x), [65504.0, x - 65504.0]);
        }
        for x in [65520.0, 1e6, f32::INFINITY] {
            assert_eq!(parts_of(-x), [0.0, f32::NEG_INFINITY]);
        }
        assert!(parts_of(f32::NAN)[1].is_nan());
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
