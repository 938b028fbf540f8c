//! The gradients of linear attention, from the sums that define it.

use super::linear_attention::{LinearInputs, dot};
use super::{Real, check_len};
use crate::Result;

/// The gradients of a loss with respect to what linear attention reads.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearGradients<R> {
    /// With respect to the rotated features of the queries, `[B, Hq, Sq, F]`.
    pub d_q_rotated: Vec<R>,
    /// With respect to the features of the queries in the denominator, `[B, Hq, Sq, F]`.
    pub d_q: Vec<R>,
    /// With respect to the rotated features of the keys, `[B, Hkv, Sk, F]`.
    pub d_k_rotated: Vec<R>,
    /// With respect to the features of the keys in the denominator, `[B, Hkv, Sk, F]`.
    pub d_k: Vec<R>,
    /// `[B, Hkv, Sk, Dv]`.
    pub dv: Vec<R>,
}

/// The gradients of [`linear_attention`](super::linear_attention), for `d_out` `[B, heads, Sq,
/// Dv]`. With e_i = dO_i / den_i and r_i = −Σ_c e_ic out_ic
///
/// ```text
/// d(Rφ(q))_i = Σ_j (e_i·v_j) Rφ(k)_j     dφ(q)_i = r_i Σ_j φ(k)_j      dv_j = Σ_i num_ij e_i
/// d(Rφ(k))_j = Σ_i (e_i·v_j) Rφ(q)_i     dφ(k)_j = Σ_i r_i φ(q)_i
/// ```
///
/// What the features themselves are owed is the sum of the two, the first one rotated back
/// ([`unrope`](super::unrope)). A row that sees no key has no gradient.
///
/// # Errors
/// As [`linear_attention`](super::linear_attention), and when `d_out` has another length.
pub fn linear_attention_backward<R: Real>(
    inputs: &LinearInputs<'_, R>,
    d_out: &[R],
) -> Result<LinearGradients<R>> {
    let dims = inputs.check()?;
    let turned = inputs.turned()?;
    let (f, dv, heads) = (dims.features, dims.v_dim, inputs.heads.len());
    let rows = [dims.batch, heads, dims.seq_q, dv].map(|n| n as u32);
    check_len("d_out", d_out.len(), rows)?;
    let pairs: Vec<_> = (0..inputs.rotary_dim / 2)
        .map(|pair| inputs.pairing.output(pair, inputs.rotary_dim))
        .map(|(a, b)| (a as usize, b as usize))
        .collect();
    let mut all = LinearGradients {
        d_q_rotated: vec![R::ZERO; inputs.q.len()],
        d_q: vec![R::ZERO; inputs.q.len()],
        d_k_rotated: vec![R::ZERO; inputs.k.len()],
        d_k: vec![R::ZERO; inputs.k.len()],
        dv: vec![R::ZERO; inputs.v.len()],
    };
    for b in 0..dims.batch {
        for (o, head) in inputs.heads.iter().enumerate() {
            let (cos, sin) = (R::from_f64(head.phase.cos()), R::from_f64(head.phase.sin()));
            for i in 0..dims.seq_q {
                let row = (b * heads + o) * dims.seq_q + i;
                let rotated = &turned[row * f..][..f];
                let query = dims.query(b, head, i);
                let plain = &inputs.q[query..][..f];
                let keys = dims.kv_plane(b, head);
                let seen = if inputs.causal { (i + 1).min(dims.seq_k) } else { dims.seq_k };
                let weight = |j: usize| dot(rotated, &inputs.k_rotated[(keys + j) * f..][..f]);
                let (mut below, mut out) = (R::ZERO, vec![R::ZERO; dv]);
                for j in 0..seen {
                    below += dot(plain, &inputs.k[(keys + j) * f..][..f]);
                    let (weight, v) = (weight(j), &inputs.v[(keys + j) * dv..][..dv]);
                    out.iter_mut().zip(v).for_each(|(sum, &v)| *sum += weight * v);
                }
                if below == R::ZERO {
                    continue;
                }
                let e: Vec<R> = d_out[row * dv..][..dv].iter().map(|&d| d / below).collect();
                let r = -(dot(&e, &out) / below);
                let mut d_turned = vec![R::ZERO; f];
                for j in 0..seen {
                    let key = keys + j;
                    let (weight, v) = (weight(j), &inputs.v[key * dv..][..dv]);
                    let d_weight = dot(&e, v);
                    for c in 0..f {
                        d_turned[c] += d_weight * inputs.k_rotated[key * f + c];
                        all.d_k_rotated[key * f + c] += d_weight * rotated[c];
                        all.d_q[query + c] += r * inputs.k[key * f + c];
                        all.d_k[key * f + c] += r * plain[c];
                    }
                    for (c, &e) in e.iter().enumerate() {
                        all.dv[key * dv + c] += weight * e;
                    }
                }
                // The head's query was turned by −φ: back by φ, and the tail times cos φ.
                let d_rotated = &mut all.d_q_rotated[query..][..f];
                for &(a, b) in &pairs {
                    d_rotated[a] += d_turned[a] * cos - d_turned[b] * sin;
                    d_rotated[b] += d_turned[b] * cos + d_turned[a] * sin;
                }
                for c in inputs.rotary_dim as usize..f {
                    d_rotated[c] += d_turned[c] * cos;
                }
            }
        }
    }
    Ok(all)
}

/// The derivative of elu(x) + 1 at every element, for the chain rule: 1 above 0, e^x below.
pub fn elu_plus_one_slope<R: Real>(x: &[R]) -> Vec<R> {
    x.iter().map(|&x| if x > R::ZERO { R::from_f64(1.0) } else { x.exp() }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::linear_attention::linear_attention;
    use super::*;
    use crate::rotary::Pairing;
    use crate::{OutputHead, Phase};

    fn numbers(seed: u64, shape: [u32; 4]) -> Vec<f64> {
        let n: u32 = shape.iter().product();
        (0..n).map(|i| (f64::from(i) * 0.731 + seed as f64 * 1.9).sin() * 0.4 + 1.0).collect()
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let heads: Vec<OutputHead> = [(0, 0.0), (0, 0.7), (2, 1.3)]
            .map(|(source, phi)| OutputHead { source, phase: Phase::radians(phi) })
            .to_vec();
        let shapes = [[2, 4, 5, 6], [2, 4, 5, 6], [2, 2, 5, 6], [2, 2, 5, 6], [2, 2, 5, 3]];
        let tensors = [0, 1, 2, 3, 4].map(|n| numbers(n as u64, shapes[n]));
        let along = [0, 1, 2, 3, 4].map(|n| numbers(9 + n as u64, shapes[n]));
        let d_out = numbers(40, [2, 3, 5, 3]);
        for causal in [false, true] {
            let inputs = |all: &[Vec<f64>; 5]| -> LinearInputs<'_, f64> {
                let [q, q_rotated, k, k_rotated, v] =
                    all.clone().map(|x| -> &'static [f64] { Vec::leak(x) });
                LinearInputs {
                    q,
                    q_rotated,
                    q_shape: shapes[0],
                    k,
                    k_rotated,
                    k_shape: shapes[2],
                    v,
                    v_shape: shapes[4],
                    rotary_dim: 4,
                    pairing: Pairing::Half,
                    heads: &heads,
                    causal,
                }
            };
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let moved = |t: f64| {
                let at = core::array::from_fn(|n| {
                    tensors[n].iter().zip(&along[n]).map(|(x, dx)| x + t * dx).collect()
                });
                dot(&linear_attention(&inputs(&at)).unwrap(), &d_out)
            };
            let h = 1e-3;
            let by_differences =
                (8.0 * (moved(h) - moved(-h)) - moved(2.0 * h) + moved(-2.0 * h)) / (12.0 * h);
            let got = linear_attention_backward(&inputs(&tensors), &d_out).unwrap();
            let parts = [&got.d_q, &got.d_q_rotated, &got.d_k, &got.d_k_rotated, &got.dv];
            let by_formulas: f64 = parts.iter().zip(&along).map(|(g, dx)| dot(g, dx)).sum();
            let error = (by_formulas - by_differences).abs() / by_formulas.abs();
            assert!(error < 1e-8, "causal {causal}: {by_formulas} and {by_differences}");
        }
    }
}
