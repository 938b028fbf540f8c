//! What the formula gives for a decode call.

use phasor::oracle::{self, Attended, AttentionInputs, Real};

use super::{Case, Inputs};
use crate::attention::variants::{hooked, in_stripes};
use crate::harness::Result;

impl Case {
    /// What the formula gives, sequence by sequence.
    pub fn reference<R: Real>(&self, inputs: &Inputs) -> Result<Attended<R>> {
        self.reference_by(inputs, |inputs, modify, sinks| {
            oracle::attention_with(inputs, modify, sinks)
        })
    }

    /// The same by another oracle's attention.
    pub fn reference_by<R: Real>(
        &self,
        inputs: &Inputs,
        attention: impl Fn(
            &AttentionInputs<'_, R>,
            &dyn Fn(oracle::Place, R) -> Option<R>,
            Option<&[f64]>,
        ) -> phasor::Result<Attended<R>>,
    ) -> Result<Attended<R>> {
        let p = &self.problem;
        let narrow = |x: &[f32]| x.iter().map(|&x| R::from_f64(f64::from(x))).collect::<Vec<R>>();
        let [_, q_heads, seq_q, dim] = self.q_shape();
        let bias = self.bias();
        let mut whole = Attended { out: Vec::new(), lse: Vec::new() };
        for (b, &len) in self.lens.iter().enumerate() {
            let plane = (q_heads * seq_q * dim) as usize;
            let mut q = narrow(&inputs.q[b * plane..][..plane]);
            let q_shape = [1, q_heads, seq_q, dim];
            if let Some(frequencies) = self.frequencies()? {
                q = oracle::rope(&q, q_shape, p.rotary_dim, p.pairing, |_, s, pair| {
                    let place = i64::from(len) - i64::from(seq_q) + i64::from(s);
                    let (far, pair) = (place.unsigned_abs() as u32, pair as usize);
                    let (cos, sin) = frequencies.cos_sin(far, pair);
                    let scale = match place < 0 {
                        false => frequencies.query_scale(far, pair),
                        // xPos is exponential in the place.
                        true => {
                            frequencies.query_scale(0, pair).powi(2)
                                / frequencies.query_scale(far, pair)
                        }
                    };
                    let sin = if place < 0 { -sin } else { sin };
                    (R::from_f64(cos * scale), R::from_f64(sin * scale))
                })?;
            }
            let (k, v) = (narrow(&inputs.k[b]), narrow(&inputs.v[b]));
            let rotary_dim = if self.needs_pairs() { p.rotary_dim } else { 0 };
            let call = AttentionInputs {
                q: &q,
                q_shape,
                k: &k,
                k_shape: [1, p.cache.kv_heads, len, dim],
                v: &v,
                v_shape: [1, p.cache.kv_heads, len, p.cache.value_dim],
                rotary_dim,
                pairing: p.pairing,
                heads: p.heads.heads(),
                softmax_scale: f64::from(p.softmax_scale),
                causal: p.causal,
                q_offset: None,
                kv_lens: None,
            };
            let oldest =
                if p.cache.rolling { i64::from(len) - i64::from(self.slots.capacity()) } else { 0 };
            let modify = |place: oracle::Place, score: R| {
                let score = match p.softcap.map(|cap| R::from_f64(f64::from(cap))) {
                    // tanh x = 1 − 2 / (e^2x + 1)
                    Some(cap) => {
                        let (one, two) = (R::from_f64(1.0), R::from_f64(2.0));
                        cap - cap * two / ((two * score / cap).exp() + one)
                    }
                    None => score,
                };
                let mut score = score;
                if let Some(&slope) = p.alibi_slopes.get(place.head) {
                    let distance = (place.key as i64 - place.position).abs();
                    score += R::from_f64(-f64::from(slope)) * R::from_f64(distance as f64);
                }
                if let Some(bias) = &bias {
                    // By slots, where those are used again.
                    let slots =
                        if p.cache.rolling { self.slots.capacity() as usize } else { usize::MAX };
                    let place = oracle::Place { batch: b, key: place.key % slots, ..place };
                    score += R::from_f64(bias.at(place)?.into());
                }
                if let Some(hook) = &p.score_mod {
                    let key = place.key as i64;
                    score = hooked(hook, score, [b, place.head], place.position, key);
                }
                if p.mask_mod.is_some() && !in_stripes(b, place.position, place.key as i64) {
                    return None;
                }
                let start = p.window.map_or(i64::MIN, |w| place.position - i64::from(w));
                let end = match p.window {
                    Some(window) if !p.causal => place.position + i64::from(window),
                    _ => i64::MAX,
                };
                let key = place.key as i64;
                (key > start && key < end && key >= oldest).then_some(score)
            };
            let sinks: Vec<f64> = p.sinks.iter().map(|&sink| f64::from(sink)).collect();
            let sinks = (!sinks.is_empty()).then_some(sinks.as_slice());
            let mut one = attention(&call, &modify, sinks)?;
            whole.out.append(&mut one.out);
            whole.lse.append(&mut one.lse);
        }
        Ok(whole)
    }

    fn needs_pairs(&self) -> bool {
        self.rope.is_some()
            || self.problem.heads.heads().iter().any(|head| head.phase != phasor::Phase::REAL)
    }
}
