//! Linear attention with rotation in the numerator, as the sum that defines it and as the
//! recurrence that a decoder runs.

use super::{Real, check_len, output_queries};
use crate::features::RandomFeatures;
use crate::{Error, OutputHead, Result, rotary::Pairing};

/// What a linear attention call reads: features, as they are and rotated. A feature map and then
/// [`rope`](super::rope) give them.
#[derive(Debug, Clone, Copy)]
pub struct LinearInputs<'a, R> {
    /// φ of the queries, `q_shape`.
    pub q: &'a [R],
    /// The same, rotated.
    pub q_rotated: &'a [R],
    /// `[B, Hq, Sq, F]`.
    pub q_shape: [u32; 4],
    /// φ of the keys, `k_shape`.
    pub k: &'a [R],
    /// The same, rotated.
    pub k_rotated: &'a [R],
    /// `[B, Hkv, Sk, F]`; Hkv divides Hq.
    pub k_shape: [u32; 4],
    /// Values, `v_shape`.
    pub v: &'a [R],
    /// `[B, Hkv, Sk, Dv]`.
    pub v_shape: [u32; 4],
    /// Features that the rotation covered.
    pub rotary_dim: u32,
    /// How the pairs of rotated features lie.
    pub pairing: Pairing,
    /// The output heads, in order. A phase turns the rotated features of the query by −φ.
    pub heads: &'a [OutputHead],
    /// Whether row `i` sees only the keys `j <= i`.
    pub causal: bool,
}

/// What the keys so far leave to those behind them.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearState<R> {
    /// Σ (R φ(k)) vᵀ, `[B, Hkv, F, Dv]`.
    pub s: Vec<R>,
    /// Σ φ(k), `[B, Hkv, F]`.
    pub z: Vec<R>,
}

/// elu(x) + 1 of every element (arXiv 2006.16236, eq. 7).
pub fn elu_plus_one<R: Real>(x: &[R]) -> Vec<R> {
    x.iter().map(|&x| if x > R::ZERO { x + R::from_f64(1.0) } else { x.exp() }).collect()
}

/// Which side of the product features are for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Side {
    /// Queries: the largest exponent of each is 0.
    Query,
    /// Keys: this is added to every exponent.
    Key {
        /// The `key_offset` of the feature map.
        offset: f64,
    },
}

/// Positive random features `[B, H, S, F]` of x, `[B, H, S, D]`: `exp(ω·x' − |x'|²/2 + c)/√F` with
/// x' = x·D^(−1/4) (arXiv 2009.14794, lemma 1).
///
/// # Errors
/// [`Error::Invalid`] where x has no rows of D.
pub fn favor<R: Real>(x: &[R], random: &RandomFeatures, side: Side) -> Result<Vec<R>> {
    let (d, f) = (random.head_dim() as usize, random.features() as usize);
    if !x.len().is_multiple_of(d) {
        let got = format!("{} elements for rows of {d}", x.len());
        return Err(Error::Invalid { what: "x", needed: "rows of head_dim", got });
    }
    let scale = R::from_f64((d as f64).powf(-0.25));
    let norm = R::from_f64((f as f64).powf(-0.5));
    let matrix: Vec<R> = random.matrix().iter().map(|&w| R::from_f64(f64::from(w))).collect();
    let mut out = Vec::with_capacity(x.len() / d * f);
    for row in x.chunks_exact(d) {
        let row: Vec<R> = row.iter().map(|&x| x * scale).collect();
        let mut sums = vec![R::ZERO; f];
        for (&x, weights) in row.iter().zip(matrix.chunks_exact(f)) {
            sums.iter_mut().zip(weights).for_each(|(sum, &w)| *sum += w * x);
        }
        let offset = match side {
            Side::Query => -sums.iter().fold(R::NEG_INFINITY, |most, &x| most.max(x)),
            Side::Key { offset } => {
                let mut square = R::ZERO;
                row.iter().for_each(|&x| square += x * x);
                R::from_f64(offset) - square * R::from_f64(0.5)
            }
        };
        out.extend(sums.into_iter().map(|x| (x + offset).exp() * norm));
    }
    Ok(out)
}

/// RoFormer linear attention (arXiv 2104.09864, eq. 19), `[B, heads, Sq, Dv]`, from the sums that
/// define it:
///
/// ```text
/// out_i = Σ_j (R_i φ(q_i))ᵀ (R_j φ(k_j)) v_j / Σ_j φ(q_i)ᵀ φ(k_j)
/// ```
///
/// A row that sees no key is 0.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Invalid`] when shapes, lengths or heads do not fit.
pub fn linear_attention<R: Real>(inputs: &LinearInputs<'_, R>) -> Result<Vec<R>> {
    let dims = inputs.check()?;
    let turned = inputs.turned()?;
    let (f, dv) = (dims.features, dims.v_dim);
    let mut out = Vec::with_capacity(dims.batch * inputs.heads.len() * dims.seq_q * dv);
    for b in 0..dims.batch {
        for (o, head) in inputs.heads.iter().enumerate() {
            for i in 0..dims.seq_q {
                let rotated = &turned[((b * inputs.heads.len() + o) * dims.seq_q + i) * f..][..f];
                let plain = &inputs.q[dims.query(b, head, i)..][..f];
                let seen = if inputs.causal { (i + 1).min(dims.seq_k) } else { dims.seq_k };
                let (mut above, mut below) = (vec![R::ZERO; dv], R::ZERO);
                for j in 0..seen {
                    let key = dims.kv_plane(b, head) + j;
                    let weight = dot(rotated, &inputs.k_rotated[key * f..][..f]);
                    below += dot(plain, &inputs.k[key * f..][..f]);
                    let v = &inputs.v[key * dv..][..dv];
                    above.iter_mut().zip(v).for_each(|(sum, &v)| *sum += weight * v);
                }
                out.extend(above.into_iter().map(|x| divided(x, below)));
            }
        }
    }
    Ok(out)
}

/// The same, causal, token by token: each adds its key to the state and reads the sums there.
/// Goes on from `state`, and leaves there what follows.
///
/// # Errors
/// As [`linear_attention`], and when the state has other sizes or `inputs` is not causal.
pub fn linear_recurrence<R: Real>(
    inputs: &LinearInputs<'_, R>,
    state: &mut LinearState<R>,
) -> Result<Vec<R>> {
    let dims = inputs.check()?;
    if !inputs.causal || dims.seq_q != dims.seq_k {
        let got = format!("{} queries, {} keys", dims.seq_q, dims.seq_k);
        return Err(Error::Invalid { what: "causal", needed: "a key for every query", got });
    }
    let (f, dv) = (dims.features, dims.v_dim);
    let planes = dims.batch * dims.kv_heads;
    if (state.s.len(), state.z.len()) != (planes * f * dv, planes * f) {
        let got = format!("S {}, z {}", state.s.len(), state.z.len());
        return Err(Error::Invalid {
            what: "state",
            needed: "S [B, Hkv, F, Dv], z [B, Hkv, F]",
            got,
        });
    }
    let turned = inputs.turned()?;
    let heads = inputs.heads.len();
    let mut out = vec![R::ZERO; dims.batch * heads * dims.seq_q * dv];
    for t in 0..dims.seq_k {
        for plane in 0..planes {
            let key = plane * dims.seq_k + t;
            for c in 0..f {
                let rotated = inputs.k_rotated[key * f + c];
                let v = &inputs.v[key * dv..][..dv];
                let row = &mut state.s[(plane * f + c) * dv..][..dv];
                row.iter_mut().zip(v).for_each(|(s, &v)| *s += rotated * v);
                state.z[plane * f + c] += inputs.k[key * f + c];
            }
        }
        for b in 0..dims.batch {
            for (o, head) in inputs.heads.iter().enumerate() {
                let plane = dims.kv_plane(b, head) / dims.seq_k;
                let row = (b * heads + o) * dims.seq_q + t;
                let plain = &inputs.q[dims.query(b, head, t)..][..f];
                let below = dot(plain, &state.z[plane * f..][..f]);
                for c in 0..dv {
                    let mut above = R::ZERO;
                    for (n, &x) in turned[row * f..][..f].iter().enumerate() {
                        above += x * state.s[(plane * f + n) * dv + c];
                    }
                    out[row * dv + c] = divided(above, below);
                }
            }
        }
    }
    Ok(out)
}

impl<R: Real> LinearState<R> {
    /// Before any key.
    pub fn new(batch: u32, kv_heads: u32, features: u32, value_dim: u32) -> Self {
        let z = batch as usize * kv_heads as usize * features as usize;
        Self { s: vec![R::ZERO; z * value_dim as usize], z: vec![R::ZERO; z] }
    }
}

fn divided<R: Real>(above: R, below: R) -> R {
    if below == R::ZERO { R::ZERO } else { above / below }
}

pub(super) fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let mut sum = R::ZERO;
    a.iter().zip(b).for_each(|(&x, &y)| sum += x * y);
    sum
}

pub(super) struct Dims {
    pub(super) batch: usize,
    q_heads: usize,
    kv_heads: usize,
    pub(super) seq_q: usize,
    pub(super) seq_k: usize,
    pub(super) features: usize,
    pub(super) v_dim: usize,
}

impl Dims {
    pub(super) fn query(&self, b: usize, head: &OutputHead, i: usize) -> usize {
        ((b * self.q_heads + head.source as usize) * self.seq_q + i) * self.features
    }

    /// Row of the first key that the head reads.
    pub(super) fn kv_plane(&self, b: usize, head: &OutputHead) -> usize {
        let group = self.q_heads / self.kv_heads;
        (b * self.kv_heads + head.source as usize / group) * self.seq_k
    }
}

impl<R: Real> LinearInputs<'_, R> {
    pub(super) fn turned(&self) -> Result<Vec<R>> {
        output_queries(self.q_rotated, self.q_shape, self.rotary_dim, self.pairing, self.heads)
    }

    pub(super) fn check(&self) -> Result<Dims> {
        let [batch, q_heads, seq_q, features] = self.q_shape;
        let [_, kv_heads, seq_k, _] = self.k_shape;
        let v_dim = self.v_shape[3];
        let shape = |tensor, needed: [u32; 4], got| {
            if needed == got { Ok(()) } else { Err(Error::Shape { tensor, needed, got }) }
        };
        shape("k", [batch, kv_heads, seq_k, features], self.k_shape)?;
        shape("v", [batch, kv_heads, seq_k, v_dim], self.v_shape)?;
        check_len("q", self.q.len(), self.q_shape)?;
        check_len("q_rotated", self.q_rotated.len(), self.q_shape)?;
        check_len("k", self.k.len(), self.k_shape)?;
        check_len("k_rotated", self.k_rotated.len(), self.k_shape)?;
        check_len("v", self.v.len(), self.v_shape)?;
        if kv_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
            let got = format!("{kv_heads} for {q_heads}");
            return Err(Error::Invalid { what: "kv_heads", needed: "a divisor of q_heads", got });
        }
        Ok(Dims {
            batch: batch as usize,
            q_heads: q_heads as usize,
            kv_heads: kv_heads as usize,
            seq_q: seq_q as usize,
            seq_k: seq_k as usize,
            features: features as usize,
            v_dim: v_dim as usize,
        })
    }
}
