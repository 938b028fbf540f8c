//! Attention and its gradients by the oracle, with all that models add to it.

use phasor::{
    Precision,
    oracle::{self, Attended, AttentionInputs, Place, Real, Upstream},
    rotary::Pairing,
};

use super::{narrow, rotate, unrotate, widen};
use crate::cases::{AttentionCase, BackwardCase, Result};

/// What a backward pass gives. Empty where an implementation does not offer it.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// Of the forward pass.
    pub attention: Attended<f64>,
    /// With respect to the un-rotated vectors, where the case rotates.
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
    pub dq_rotated: Vec<f64>,
    pub dk_rotated: Vec<f64>,
    pub d_sinks: Vec<f64>,
    pub d_bias: Vec<f64>,
    pub d_alibi_slopes: Vec<f64>,
}

/// Rotated vectors of a case in a precision.
struct Tensors<R> {
    q: Vec<R>,
    k: Vec<R>,
    v: Vec<R>,
    sinks: Vec<f64>,
}

impl<R: Real> Tensors<R> {
    fn of(case: &AttentionCase) -> Result<Self> {
        let (mut q, mut k) = (narrow::<R>(&case.q), narrow::<R>(&case.k));
        if let Some([q_rotation, k_rotation]) = &case.rotations {
            q = rotate(&q, case.q_shape, q_rotation)?;
            k = rotate(&k, case.k_shape, k_rotation)?;
        }
        let sinks = case.variant.sinks.iter().map(|&sink| f64::from(sink)).collect();
        Ok(Self { q, k, v: narrow(&case.v), sinks })
    }

    fn inputs<'a>(&'a self, case: &'a AttentionCase) -> AttentionInputs<'a, R> {
        let (rotary_dim, pairing) = case.pairs();
        let pairing = match pairing {
            Pairing::InterleavedToHalf => Pairing::Half,
            other => other,
        };
        AttentionInputs {
            q: &self.q,
            q_shape: case.q_shape,
            k: &self.k,
            k_shape: case.k_shape,
            v: &self.v,
            v_shape: case.v_shape,
            rotary_dim,
            pairing,
            heads: case.heads.heads(),
            softmax_scale: case.softmax_scale,
            // Where there is a prefix the causal mask is the variant's.
            causal: case.causal && case.variant.prefix_lens.is_none(),
            q_offset: case.variant.query_offset.map(i64::from),
            kv_lens: case.kv_lens.as_deref(),
        }
    }

    fn sinks(&self) -> Option<&[f64]> {
        (!self.sinks.is_empty()).then_some(self.sinks.as_slice())
    }
}

/// The forward pass of a case as a kernel of this precision rounds it.
pub(super) fn attend_rounded(
    case: &AttentionCase,
    precision: Precision,
    keys_a_step: u32,
) -> Result<Attended<f32>> {
    let tensors = Tensors::<f32>::of(case)?;
    let modify = |place, score| Some(modified(case, place, score)?.0);
    let inputs = tensors.inputs(case);
    Ok(oracle::attention_rounded(&inputs, &modify, tensors.sinks(), precision, keys_a_step)?)
}

/// A score after all that the case adds, and its derivative.
fn modified<R: Real>(case: &AttentionCase, place: Place, score: R) -> Option<(R, R)> {
    let variant = &case.variant;
    let (one, two) = (R::from_f64(1.0), R::from_f64(2.0));
    let (mut score, slope) = match variant.softcap.map(R::from_f64) {
        // tanh x = 1 − 2 / (e^2x + 1), which neither overflows nor loses digits that matter
        // beside the scores; and its derivative 4 e^−2|x| / (1 + e^−2|x|)².
        Some(cap) => {
            let x = score / cap;
            let e = (-(two * x.max(-x))).exp();
            let capped = cap - cap * two / ((two * x).exp() + one);
            (capped, R::from_f64(4.0) * e / ((one + e) * (one + e)))
        }
        None => (score, one),
    };
    if let Some(&slope) = variant.alibi_slopes.get(place.head) {
        let distance = place.key as i64 - place.position;
        score += R::from_f64(slope.into()) * R::from_f64(distance as f64);
    }
    if let Some(bias) = &variant.bias {
        let row = (place.batch * case.heads.heads().len() + place.head) * case.q_shape[2] as usize;
        let bias = bias[(row + place.query) * case.k_shape[2] as usize + place.key];
        if bias == f32::NEG_INFINITY {
            return None;
        }
        score += R::from_f64(bias.into());
    }
    let key = place.key as i64;
    let prefix = variant.prefix_lens.as_ref().map(|lens| i64::from(lens[place.batch]));
    let causal = prefix.is_none_or(|len| key <= place.position || key < len);
    let in_window = variant.window.is_none_or(|w| key > place.position - i64::from(w));
    (causal && in_window).then_some((score, slope))
}

pub(super) fn attend<R: Real>(case: &AttentionCase) -> Result<Attended<R>> {
    let tensors = Tensors::<R>::of(case)?;
    let modify = |place: Place, score: R| Some(modified(case, place, score)?.0);
    Ok(oracle::attention_with(&tensors.inputs(case), &modify, tensors.sinks())?)
}

pub(super) fn by_oracle<R: Real>(case: &BackwardCase) -> Result<Gradients> {
    let BackwardCase { attention: case, d_out, d_lse, .. } = case;
    let tensors = Tensors::<R>::of(case)?;
    let (d_out, d_lse) = (narrow::<R>(d_out), d_lse.as_deref().map(narrow::<R>));
    let upstream = Upstream { d_out: &d_out, d_lse: d_lse.as_deref() };
    let modify = |place: Place, score: R| modified(case, place, score);
    let inputs = tensors.inputs(case);
    let all = oracle::attention_backward(&inputs, &upstream, &modify, tensors.sinks())?;
    let (mut dq, mut dk) = (all.dq.clone(), all.dk.clone());
    if let Some([q_rotation, k_rotation]) = &case.rotations {
        dq = unrotate(&dq, case.q_shape, q_rotation)?;
        dk = unrotate(&dk, case.k_shape, k_rotation)?;
    }
    let forward = attend::<R>(case)?;
    Ok(Gradients {
        attention: Attended { out: widen(&forward.out), lse: widen(&forward.lse) },
        dq: widen(&dq),
        dk: widen(&dk),
        dv: widen(&all.dv),
        dq_rotated: widen(&all.dq),
        dk_rotated: widen(&all.dk),
        d_sinks: widen(&all.d_sinks),
        d_alibi_slopes: slopes(case, &all.d_scores),
        d_bias: widen(&all.d_scores),
    })
}

/// Σ dscore (j − i − offset) of every output head.
fn slopes<R: Real>(case: &AttentionCase, d_scores: &[R]) -> Vec<f64> {
    let [_, _, seq_q, _] = case.q_shape;
    let seq_k = case.k_shape[2];
    let offset = case.variant.query_offset.unwrap_or(seq_k as i32 - seq_q as i32);
    let heads = case.heads.heads().len();
    let mut slopes = vec![R::ZERO; heads];
    for (row, scores) in d_scores.chunks_exact((seq_k as usize).max(1)).enumerate() {
        let (head, i) = (row / seq_q as usize % heads, (row % seq_q as usize) as i32);
        for (j, &d) in scores.iter().enumerate() {
            slopes[head] += d * R::from_f64(f64::from(j as i32 - i - offset));
        }
    }
    widen(&slopes)
}
