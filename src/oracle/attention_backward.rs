//! The gradients of attention, one row at a time, from the formulas.

use super::attention::{AttentionInputs, Place, check_sinks};
use super::{Real, check_len};
use crate::Result;

/// What the loss says of an attention call's results.
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a, R> {
    /// ∂loss/∂out, `[B, heads, Sq, Dv]`.
    pub d_out: &'a [R],
    /// ∂loss/∂lse of the natural log-sum-exp, `[B, heads, Sq]`; `None`: the loss does not read it.
    pub d_lse: Option<&'a [R]>,
}

/// The gradients of a loss with respect to what an attention call reads.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionGradients<R> {
    /// With respect to the rotated queries, `[B, Hq, Sq, Dqk]`: all output heads of a query head
    /// added up. [`unrope`](super::unrope) takes it to the un-rotated ones.
    pub dq: Vec<R>,
    /// With respect to the rotated keys, `[B, Hkv, Sk, Dqk]`.
    pub dk: Vec<R>,
    /// `[B, Hkv, Sk, Dv]`.
    pub dv: Vec<R>,
    /// With respect to the scores after all modifications, `[B, heads, Sq, Sk]`, 0 where a key is
    /// hidden. It is the gradient of an additive bias, and ALiBi's slopes have theirs from it:
    /// the sum over a head of this times (key − position).
    pub d_scores: Vec<R>,
    /// One an output head; empty without sinks.
    pub d_sinks: Vec<R>,
}

/// The gradients of [`attention_with`](super::attention_with). With P = exp(score − lse), for each
/// output head
///
/// ```text
/// δ_i = Σ_c dO_ic O_ic − dLSE_i       dP_ij = dO_i · V_j       dscore_ij = P_ij (dP_ij − δ_i)
/// dS_ij = scale · modify'(S_ij) · dscore_ij                    dV_j = Σ_i P_ij dO_i
/// dsink = −Σ_i exp(sink − lse_i) δ_i
/// ```
///
/// and with Z_re = Σ cos φ dS, Z_im = Σ sin φ dS over the output heads of a query head (RoPE++ in
/// complex numbers: dQ = Z K, dK = conj(Z)ᵀ Q)
///
/// ```text
/// dQa = Z_re Ka − Z_im Kb      dQb = Z_re Kb + Z_im Ka
/// dKa = Z_reᵀ Qa + Z_imᵀ Qb    dKb = Z_reᵀ Qb − Z_imᵀ Qa
/// ```
///
/// the un-rotated tail with Z_re alone. `modify` is that of the forward pass, and gives beside the
/// score to use its derivative by the scaled score.
///
/// A row that sees no key has no gradient, whatever `d_lse` says there; with a sink its log-sum-exp
/// is the sink's logit, which takes `d_lse`.
///
/// # Errors
/// As [`attention_with`](super::attention_with), and when `d_out` or `d_lse` has another length.
pub fn attention_backward<R: Real>(
    inputs: &AttentionInputs<'_, R>,
    upstream: &Upstream<'_, R>,
    modify: &dyn Fn(Place, R) -> Option<(R, R)>,
    sinks: Option<&[f64]>,
) -> Result<AttentionGradients<R>> {
    let dims = inputs.check()?;
    check_sinks(inputs, sinks)?;
    let heads = inputs.heads.len();
    let rows = [dims.batch, heads, dims.seq_q].map(|n| n as u32);
    check_len("d_out", upstream.d_out.len(), [rows[0], rows[1], rows[2], dims.v_dim as u32])?;
    if let Some(d_lse) = upstream.d_lse {
        check_len("d_lse", d_lse.len(), [rows[0], rows[1], rows[2], 1])?;
    }
    let scale = R::from_f64(inputs.softmax_scale);
    let mut all = AttentionGradients {
        dq: vec![R::ZERO; inputs.q.len()],
        dk: vec![R::ZERO; inputs.k.len()],
        dv: vec![R::ZERO; inputs.v.len()],
        d_scores: vec![R::ZERO; dims.batch * heads * dims.seq_q * dims.seq_k],
        d_sinks: vec![R::ZERO; sinks.map_or(0, <[f64]>::len)],
    };
    // Derivatives of the row at hand, left there by `modify`.
    let slopes = std::cell::RefCell::new(vec![R::ZERO; dims.seq_k]);
    let forward = |place: Place, score: R| {
        modify(place, score).map(|(score, slope)| {
            slopes.borrow_mut()[place.key] = slope;
            score
        })
    };
    dims.for_each_row(inputs, &forward, |row| {
        let sink = sinks.map_or(R::NEG_INFINITY, |sinks| R::from_f64(sinks[row.head]));
        let softmax = row.softmax(sink);
        if softmax.lse == R::NEG_INFINITY {
            return;
        }
        let at = (row.batch * heads + row.head) * dims.seq_q + row.query;
        let d_out = &upstream.d_out[at * dims.v_dim..][..dims.v_dim];
        let seen = |j: usize| row.scores[j] != R::NEG_INFINITY;
        let mut delta = R::ZERO;
        for (c, &d) in d_out.iter().enumerate() {
            let mut out = R::ZERO;
            for (j, &p) in softmax.probabilities.iter().enumerate().filter(|(j, _)| seen(*j)) {
                out += p * inputs.v[row.values + j * dims.v_dim + c];
            }
            delta += d * out;
        }
        if let Some(d_lse) = upstream.d_lse {
            delta = delta - d_lse[at];
        }
        if sinks.is_some() {
            all.d_sinks[row.head] += -((sink - softmax.lse).exp() * delta);
        }
        let output = inputs.heads[row.head];
        let (cos, sin) = (R::from_f64(output.phase.cos()), R::from_f64(output.phase.sin()));
        let h = output.source as usize;
        let (query, keys) = (dims.query(row.batch, h, row.query), dims.keys(row.batch, h));
        for (j, &p) in softmax.probabilities.iter().enumerate().filter(|(j, _)| seen(*j)) {
            let value = row.values + j * dims.v_dim;
            let mut dp = R::ZERO;
            for (c, &d) in d_out.iter().enumerate() {
                dp += d * inputs.v[value + c];
                all.dv[value + c] += p * d;
            }
            let d_score = p * (dp - delta);
            all.d_scores[at * dims.seq_k + j] = d_score;
            let ds = scale * slopes.borrow()[j] * d_score;
            let (re, im) = (cos * ds, sin * ds);
            let key = keys + j * dims.qk_dim;
            for &(a, b) in &dims.pairs {
                let (qa, qb) = (inputs.q[query + a], inputs.q[query + b]);
                let (ka, kb) = (inputs.k[key + a], inputs.k[key + b]);
                all.dq[query + a] += re * ka - im * kb;
                all.dq[query + b] += re * kb + im * ka;
                all.dk[key + a] += re * qa + im * qb;
                all.dk[key + b] += re * qb - im * qa;
            }
            for c in dims.rotary_dim..dims.qk_dim {
                all.dq[query + c] += re * inputs.k[key + c];
                all.dk[key + c] += re * inputs.q[query + c];
            }
        }
    });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::attention::attention_with;
    use super::*;
    use crate::rotary::Pairing;
    use crate::{OutputHead, Phase};

    const SHAPES: [[u32; 4]; 3] = [[2, 4, 5, 8], [2, 2, 7, 8], [2, 2, 7, 3]];
    const SINKS: [f64; 5] = [0.3, f64::NEG_INFINITY, -0.5, 0.0, 1.0];

    fn numbers(seed: u64, shape: [u32; 4]) -> Vec<f64> {
        let n: u32 = shape.iter().product();
        (0..n).map(|i| (f64::from(i) * 0.7310 + seed as f64 * 1.9).sin() * 1.3).collect()
    }

    /// Three output heads of one query head, a head that feeds none, and all that models add.
    fn heads() -> Vec<OutputHead> {
        [(0, 0.0), (0, core::f64::consts::FRAC_PI_2), (0, -1.1), (1, 2.5), (3, 0.4)]
            .map(|(source, phi)| OutputHead { source, phase: Phase::radians(phi) })
            .to_vec()
    }

    /// Window, softcap, ALiBi and a bias.
    fn modify(bias: &[f64]) -> impl Fn(Place, f64) -> Option<(f64, f64)> + '_ {
        |place, score| {
            let capped = (score / 1.5).tanh();
            let distance = place.key as f64 - place.position as f64;
            let row = (place.batch * 5 + place.head) * 5 + place.query;
            let hidden = place.key as i64 <= place.position - 5;
            let slope = 0.1 * place.head as f64;
            let bias = bias[row * 7 + place.key];
            (!hidden).then_some((1.5 * capped + slope * distance + bias, 1.0 - capped * capped))
        }
    }

    /// The loss that the upstream gradients are those of, at every input moved along a direction.
    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (pairing, rotary_dim, lens, offset) in [
            (Pairing::Half, 8, None, None),
            (Pairing::Interleaved, 4, Some(vec![7, 3]), Some(-2)),
            (Pairing::HalfBlocks(2), 8, Some(vec![0, 6]), Some(9)),
        ] {
            let heads = heads();
            let tensors = [0, 1, 2].map(|n| numbers(n as u64, SHAPES[n]));
            let along = [0, 1, 2].map(|n| numbers(7 + n as u64, SHAPES[n]));
            let (bias, bias_along) = (numbers(20, [2, 5, 5, 7]), numbers(21, [2, 5, 5, 7]));
            let (d_out, d_lse) = (numbers(30, [2, 5, 5, 3]), numbers(31, [2, 5, 5, 1]));
            let inputs = |[q, k, v]: [&[f64]; 3]| -> AttentionInputs<'_, f64> {
                // The test's own tensors outlive every use.
                AttentionInputs {
                    q: Vec::leak(q.to_vec()),
                    q_shape: SHAPES[0],
                    k: Vec::leak(k.to_vec()),
                    k_shape: SHAPES[1],
                    v: Vec::leak(v.to_vec()),
                    v_shape: SHAPES[2],
                    rotary_dim,
                    pairing,
                    heads: Vec::leak(heads.clone()),
                    softmax_scale: 0.7,
                    causal: true,
                    q_offset: offset,
                    kv_lens: lens.clone().map(|lens| &*Vec::leak(lens)),
                }
            };
            let moved = |t: f64| {
                let step = |x: &[f64], dx: &[f64]| -> Vec<f64> {
                    x.iter().zip(dx).map(|(x, dx)| x + t * dx).collect()
                };
                let all: Vec<_> = tensors.iter().zip(&along).map(|(x, dx)| step(x, dx)).collect();
                let bias = step(&bias, &bias_along);
                let sinks: Vec<f64> = SINKS.iter().map(|x| x + 0.8 * t).collect();
                let change = modify(&bias);
                let got = attention_with(
                    &inputs([&all[0], &all[1], &all[2]]),
                    &|place, score| change(place, score).map(|(score, _)| score),
                    Some(&sinks),
                );
                let got = got.unwrap();
                let dot = |x: &[f64], y: &[f64]| -> f64 {
                    let live = x.iter().zip(y).filter(|(x, _)| x.is_finite());
                    live.map(|(x, y)| x * y).sum()
                };
                dot(&got.out, &d_out) + dot(&got.lse, &d_lse)
            };
            let h = 1e-3;
            let by_differences =
                (8.0 * (moved(h) - moved(-h)) - moved(2.0 * h) + moved(-2.0 * h)) / (12.0 * h);
            let upstream = Upstream { d_out: &d_out, d_lse: Some(&d_lse) };
            let refs = [0, 1, 2].map(|n| tensors[n].as_slice());
            let all =
                attention_backward(&inputs(refs), &upstream, &modify(&bias), Some(&SINKS)).unwrap();
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let by_formulas = dot(&all.dq, &along[0])
                + dot(&all.dk, &along[1])
                + dot(&all.dv, &along[2])
                + dot(&all.d_scores, &bias_along)
                + 0.8 * all.d_sinks.iter().sum::<f64>();
            let error = (by_formulas - by_differences).abs() / by_formulas.abs();
            assert!(error < 1e-8, "{pairing:?}: {by_formulas} and {by_differences}");
        }
    }

    #[test]
    fn upstream_gradients_of_another_length_are_refused() {
        let heads = heads();
        let [q, k, v] = [0, 1, 2].map(|n| numbers(n as u64, SHAPES[n]));
        let inputs = AttentionInputs {
            q: &q,
            q_shape: SHAPES[0],
            k: &k,
            k_shape: SHAPES[1],
            v: &v,
            v_shape: SHAPES[2],
            rotary_dim: 8,
            pairing: Pairing::Half,
            heads: &heads,
            softmax_scale: 1.0,
            causal: true,
            q_offset: None,
            kv_lens: None,
        };
        let plain = |_: Place, score: f64| Some((score, 1.0));
        let run = |d_out: usize, d_lse: usize, sinks: usize| {
            let (d_out, d_lse) = (vec![0.0; d_out], vec![0.0; d_lse]);
            let upstream = Upstream { d_out: &d_out, d_lse: Some(&d_lse) };
            attention_backward(&inputs, &upstream, &plain, Some(&SINKS[..sinks]))
        };
        assert!(run(150, 50, 5).is_ok());
        assert!(run(149, 50, 5).is_err() && run(150, 49, 5).is_err() && run(150, 50, 4).is_err());
    }
}
