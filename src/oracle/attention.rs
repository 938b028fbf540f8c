//! Attention with the real and the imaginary score, one row at a time.

use super::{Real, check_len, rope::check_rotary_dim};
use crate::{Error, OutputHead, Result, rotary::Pairing};

/// What an attention call reads. Query head `h` uses kv head `h / (q_heads / kv_heads)`.
///
/// A pair `(Qa, Qb)` of a rotated query and `(Ka, Kb)` of a rotated key add to the two scores
/// (RoPE++, arXiv 2512.07525 §3.1, matrix form: the imaginary query is turned by −π/2)
///
/// ```text
/// S_re += Qa Ka + Qb Kb        S_im += Qb Ka − Qa Kb        S_φ = cos φ S_re + sin φ S_im
/// ```
///
/// and the un-rotated tail of a partially rotated head adds its dot product to S_re alone.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a, R> {
    /// Rotated queries, `q_shape`.
    pub q: &'a [R],
    /// `[B, Hq, Sq, Dqk]`.
    pub q_shape: [u32; 4],
    /// Rotated keys, `k_shape`.
    pub k: &'a [R],
    /// `[B, Hkv, Sk, Dqk]`; Hkv divides Hq.
    pub k_shape: [u32; 4],
    /// Values, `v_shape`.
    pub v: &'a [R],
    /// `[B, Hkv, Sk, Dv]`.
    pub v_shape: [u32; 4],
    /// Channels that the rotation covered; the rest is the tail.
    pub rotary_dim: u32,
    /// How the pairs of rotated vectors lie. As they lie after the rotation, that is, so
    /// [`InterleavedToHalf`](Pairing::InterleavedToHalf) counts as [`Half`](Pairing::Half).
    pub pairing: Pairing,
    /// The output heads, in order.
    pub heads: &'a [OutputHead],
    /// Factor on every score, commonly `Dqk^(−1/2)`. Finite, of any sign.
    pub softmax_scale: f64,
    /// Whether row `i` sees only the keys `j <= i + q_offset`.
    pub causal: bool,
    /// Place of the first query among the keys; may be negative. `None` aligns the last query with
    /// the last key (`Sk − Sq`, the padding counted). Read only when causal.
    pub q_offset: Option<i64>,
    /// Keys that each batch has, B numbers; the ones behind are padding and are never read.
    /// `None`: all Sk. A number above Sk counts as Sk.
    pub kv_lens: Option<&'a [u32]>,
}

/// What an attention call gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Attended<R> {
    /// `[B, heads, Sq, Dv]`; 0 in rows that see no key.
    pub out: Vec<R>,
    /// Natural log-sum-exp of the scaled scores of the visible keys, `[B, heads, Sq]`; −∞ in rows
    /// that see no key.
    pub lse: Vec<R>,
}

/// Softmax attention, each output head with a softmax of its own.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Invalid`] when shapes, lengths, heads or numbers do not fit.
pub fn attention<R: Real>(inputs: &AttentionInputs<'_, R>) -> Result<Attended<R>> {
    attention_with(inputs, &|_, score| Some(score), None)
}

/// Where a score stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Batch.
    pub batch: usize,
    /// Output head.
    pub head: usize,
    /// Query row.
    pub query: usize,
    /// Place of the query among the keys: row + `q_offset`.
    pub position: i64,
    /// Key.
    pub key: usize,
}

/// [`attention`] with every scaled score of a visible key passed through `modify`, which gives the
/// score to use, or `None` to hide the key: sliding windows, softcaps, biases, masks.
///
/// `sinks`, one logit an output head, join the denominator and the log-sum-exp as a key without a
/// value would (gpt-oss); −∞ is no sink.
///
/// # Errors
/// As [`attention`]; [`Error::Invalid`] for a number of sinks other than that of output heads.
pub fn attention_with<R: Real>(
    inputs: &AttentionInputs<'_, R>,
    modify: &dyn Fn(Place, R) -> Option<R>,
    sinks: Option<&[f64]>,
) -> Result<Attended<R>> {
    let dims = inputs.check()?;
    check_sinks(inputs, sinks)?;
    let mut out = Vec::with_capacity(dims.batch * inputs.heads.len() * dims.seq_q * dims.v_dim);
    let mut lse = Vec::with_capacity(dims.batch * inputs.heads.len() * dims.seq_q);
    dims.for_each_row(inputs, modify, |row| {
        let sink = sinks.map_or(R::NEG_INFINITY, |sinks| R::from_f64(sinks[row.head]));
        let softmax = row.softmax(sink);
        for c in 0..dims.v_dim {
            let mut sum = R::ZERO;
            for (j, &p) in softmax.probabilities.iter().enumerate() {
                // A hidden key's value may be anything.
                if row.scores[j] != R::NEG_INFINITY {
                    sum += p * inputs.v[row.values + j * dims.v_dim + c];
                }
            }
            out.push(sum);
        }
        lse.push(softmax.lse);
    });
    Ok(Attended { out, lse })
}

/// Refuses sinks of another number than output heads.
pub(super) fn check_sinks<R>(inputs: &AttentionInputs<'_, R>, sinks: Option<&[f64]>) -> Result<()> {
    match sinks.filter(|sinks| sinks.len() != inputs.heads.len()) {
        None => Ok(()),
        Some(sinks) => {
            let got = format!("{} for {} output heads", sinks.len(), inputs.heads.len());
            Err(Error::Invalid { what: "sinks", needed: "one an output head", got })
        }
    }
}

/// The softmax weights `[B, heads, Sq, Sk]`, 0 where a key is masked. For pictures and statistics:
/// a kernel never holds them.
///
/// # Errors
/// As [`attention`].
pub fn probabilities<R: Real>(inputs: &AttentionInputs<'_, R>) -> Result<Vec<R>> {
    let dims = inputs.check()?;
    let mut all = Vec::with_capacity(dims.batch * inputs.heads.len() * dims.seq_q * dims.seq_k);
    dims.for_each_row(inputs, &|_, score| Some(score), |row| {
        let end = all.len() + dims.seq_k;
        all.extend(row.softmax(R::NEG_INFINITY).probabilities);
        all.resize(end, R::ZERO);
    });
    Ok(all)
}

/// The raw scores (S_re, S_im) of every query head, unscaled and unmasked, each `[B, Hq, Sq, Sk]`.
/// Reads q, k, their shapes, `rotary_dim` and `pairing`; padding keys are scored like any other.
///
/// # Errors
/// As [`attention`].
pub fn scores<R: Real>(inputs: &AttentionInputs<'_, R>) -> Result<(Vec<R>, Vec<R>)> {
    let dims = inputs.check()?;
    let mut both = (Vec::new(), Vec::new());
    for b in 0..dims.batch {
        for h in 0..dims.q_heads {
            for i in 0..dims.seq_q {
                let (query, keys) = (dims.query(b, h, i), dims.keys(b, h));
                for j in 0..dims.seq_k {
                    let (re, im) = dims.score(inputs, query, keys + j * dims.qk_dim);
                    both.0.push(re);
                    both.1.push(im);
                }
            }
        }
    }
    Ok(both)
}

impl<R: Real> AttentionInputs<'_, R> {
    pub(super) fn check(&self) -> Result<Dims> {
        let [batch, q_heads, seq_q, qk_dim] = self.q_shape;
        let [_, kv_heads, seq_k, _] = self.k_shape;
        let v_dim = self.v_shape[3];
        let shape = |tensor, needed: [u32; 4], got| {
            if needed == got { Ok(()) } else { Err(Error::Shape { tensor, needed, got }) }
        };
        shape("k", [batch, kv_heads, seq_k, qk_dim], self.k_shape)?;
        shape("v", [batch, kv_heads, seq_k, v_dim], self.v_shape)?;
        check_len("q", self.q.len(), self.q_shape)?;
        check_len("k", self.k.len(), self.k_shape)?;
        check_len("v", self.v.len(), self.v_shape)?;
        check_rotary_dim(self.rotary_dim, qk_dim, self.pairing)?;

        let invalid = |what, needed, got| Err(Error::Invalid { what, needed, got });
        if kv_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
            let got = format!("{kv_heads} for {q_heads}");
            return invalid("kv_heads", "a divisor of q_heads", got);
        }
        if let Some(head) = self.heads.iter().find(|head| head.source >= q_heads) {
            let got = format!("{} of {q_heads}", head.source);
            return invalid("source of an output head", "below q_heads", got);
        }
        if !self.softmax_scale.is_finite() {
            return invalid("softmax_scale", "finite", self.softmax_scale.to_string());
        }
        if let Some(lens) = self.kv_lens.filter(|lens| lens.len() != batch as usize) {
            let got = format!("{} for {batch}", lens.len());
            return invalid("kv_lens", "one length a batch", got);
        }
        Ok(Dims {
            batch: batch as usize,
            q_heads: q_heads as usize,
            kv_heads: kv_heads as usize,
            seq_q: seq_q as usize,
            seq_k: seq_k as usize,
            qk_dim: qk_dim as usize,
            v_dim: v_dim as usize,
            rotary_dim: self.rotary_dim as usize,
            pairs: (0..self.rotary_dim / 2)
                .map(|pair| self.pairing.output(pair, self.rotary_dim))
                .map(|(a, b)| (a as usize, b as usize))
                .collect(),
        })
    }

    /// Keys `0 .. n` are the ones that row `i` of batch `b` sees.
    fn visible(&self, b: usize, i: usize) -> usize {
        let [_, _, seq_k, _] = self.k_shape;
        let len = self.kv_lens.map_or(seq_k, |lens| lens[b].min(seq_k));
        if !self.causal {
            return len as usize;
        }
        self.offset().saturating_add(i as i64 + 1).clamp(0, i64::from(len)) as usize
    }

    /// Place of query 0 among the keys.
    fn offset(&self) -> i64 {
        let aligned = i64::from(self.k_shape[2]) - i64::from(self.q_shape[2]);
        self.q_offset.unwrap_or(aligned)
    }
}

/// The checked shapes, and where things lie.
pub(super) struct Dims {
    pub(super) batch: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) seq_q: usize,
    pub(super) seq_k: usize,
    pub(super) qk_dim: usize,
    pub(super) v_dim: usize,
    pub(super) rotary_dim: usize,
    /// Channels of each pair.
    pub(super) pairs: Vec<(usize, usize)>,
}

/// One row of one output head: its scaled scores against the visible keys.
pub(super) struct Row<R> {
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) query: usize,
    /// −∞ where the key is hidden.
    pub(super) scores: Vec<R>,
    /// Index of the first value of its kv head.
    pub(super) values: usize,
}

pub(super) struct Softmax<R> {
    pub(super) probabilities: Vec<R>,
    pub(super) lse: R,
}

impl Dims {
    pub(super) fn query(&self, b: usize, h: usize, i: usize) -> usize {
        ((b * self.q_heads + h) * self.seq_q + i) * self.qk_dim
    }

    pub(super) fn kv_plane(&self, b: usize, h: usize) -> usize {
        (b * self.kv_heads + h / (self.q_heads / self.kv_heads)) * self.seq_k
    }

    pub(super) fn keys(&self, b: usize, h: usize) -> usize {
        self.kv_plane(b, h) * self.qk_dim
    }

    /// (S_re, S_im) of the query and the key that start at these indices.
    pub(super) fn score<R: Real>(
        &self,
        inputs: &AttentionInputs<'_, R>,
        query: usize,
        key: usize,
    ) -> (R, R) {
        let q = &inputs.q[query..query + self.qk_dim];
        let k = &inputs.k[key..key + self.qk_dim];
        let (mut re, mut im) = (R::ZERO, R::ZERO);
        for &(a, b) in &self.pairs {
            re += q[a] * k[a] + q[b] * k[b];
            im += q[b] * k[a] - q[a] * k[b];
        }
        for c in self.rotary_dim..self.qk_dim {
            re += q[c] * k[c];
        }
        (re, im)
    }

    pub(super) fn for_each_row<R: Real>(
        &self,
        inputs: &AttentionInputs<'_, R>,
        modify: &dyn Fn(Place, R) -> Option<R>,
        f: impl FnMut(&Row<R>),
    ) {
        self.for_each_row_by(inputs, &|query, key| self.score(inputs, query, key), modify, f);
    }

    /// The same with scores that `product` gives, of a query and a key that start at these indices.
    pub(super) fn for_each_row_by<R: Real>(
        &self,
        inputs: &AttentionInputs<'_, R>,
        product: &dyn Fn(usize, usize) -> (R, R),
        modify: &dyn Fn(Place, R) -> Option<R>,
        mut f: impl FnMut(&Row<R>),
    ) {
        let scale = R::from_f64(inputs.softmax_scale);
        for b in 0..self.batch {
            for (o, head) in inputs.heads.iter().enumerate() {
                let h = head.source as usize;
                let (cos, sin) = (R::from_f64(head.phase.cos()), R::from_f64(head.phase.sin()));
                for i in 0..self.seq_q {
                    let (query, keys) = (self.query(b, h, i), self.keys(b, h));
                    let score = |j| {
                        let (re, im) = product(query, keys + j * self.qk_dim);
                        let position = (i as i64).saturating_add(inputs.offset());
                        let place = Place { batch: b, head: o, query: i, position, key: j };
                        // A part that does not count may be infinite.
                        let score = match (cos == R::ZERO, sin == R::ZERO) {
                            (_, true) => cos * re,
                            (true, _) => sin * im,
                            _ => cos * re + sin * im,
                        };
                        modify(place, score * scale).unwrap_or(R::NEG_INFINITY)
                    };
                    f(&Row {
                        batch: b,
                        head: o,
                        query: i,
                        scores: (0..inputs.visible(b, i)).map(score).collect(),
                        values: self.kv_plane(b, h) * self.v_dim,
                    });
                }
            }
        }
    }
}

impl<R: Real> Row<R> {
    pub(super) fn softmax(&self, sink: R) -> Softmax<R> {
        let max = self.scores.iter().fold(sink, |m, &s| m.max(s));
        if max == R::NEG_INFINITY {
            let probabilities = vec![R::ZERO; self.scores.len()];
            return Softmax { probabilities, lse: R::NEG_INFINITY };
        }
        let weights: Vec<R> = self.scores.iter().map(|&s| (s - max).exp()).collect();
        let mut sum = (sink - max).exp();
        for &w in &weights {
            sum += w;
        }
        Softmax {
            probabilities: weights.into_iter().map(|w| w / sum).collect(),
            lse: max + sum.ln(),
        }
    }
}
