//! Sizes of calls, read off their tensors. What a size does not depend on is checked when a call is
//! bound; here, that tensors agree on what both of them say.

use super::Tensor;
use crate::plan::attention::AttentionShape;
use crate::plan::decode::DecodeShape;
use crate::plan::kv_append::KvAppendShape;
use crate::plan::linear_attention::LinearAttentionShape;
use crate::plan::merge::MergeShape;
use crate::plan::rope::RopeShape;
use crate::plan::scores::ScoresShape;
use crate::{Error, Result};

/// `[B, S_q, S_k]` of q `[B, H_q, S_q, D]` and k `[B, H_kv, S_k, D]`.
fn lengths<A, B>(q: &Tensor<A>, k: &Tensor<B>) -> Result<[u32; 3]> {
    let [batch, _, seq_q, dim] = q.layout.shape;
    let [_, kv_heads, seq_k, _] = k.layout.shape;
    same("k", k, [batch, kv_heads, seq_k, dim])?;
    Ok([batch, seq_q, seq_k])
}

fn same<B>(tensor: &'static str, given: &Tensor<B>, needed: [u32; 4]) -> Result<()> {
    let got = given.layout.shape;
    if got == needed { Ok(()) } else { Err(Error::Shape { tensor, needed, got }) }
}

impl AttentionShape {
    /// That of q `[B, H_q, S_q, D]` and k `[B, H_kv, S_k, D]`, the last query at the last key.
    /// Ragged rows and caches do not tell how many sequences there are: [`AttentionShape::new`].
    ///
    /// # Errors
    /// [`Error::Shape`] where they differ in B or D.
    pub fn of<A, B>(q: &Tensor<A>, k: &Tensor<B>) -> Result<Self> {
        let [batch, seq_q, seq_k] = lengths(q, k)?;
        Ok(Self::new(batch, seq_q, seq_k))
    }
}

impl LinearAttentionShape {
    /// That of q `[B, H_q, S_q, D]` and k `[B, H_kv, S_k, D]`, from an empty state.
    ///
    /// # Errors
    /// [`Error::Shape`] where they differ in B or D.
    pub fn of<A, B>(q: &Tensor<A>, k: &Tensor<B>) -> Result<Self> {
        let [batch, seq_q, seq_k] = lengths(q, k)?;
        Ok(Self { batch, seq_q, seq_k, resume: false })
    }
}

impl ScoresShape {
    /// That of q `[B, H_q, S_q, D]` and k `[B, H_kv, S_k, D]`: all queries and all keys.
    ///
    /// # Errors
    /// [`Error::Shape`] where they differ in B or D.
    pub fn of<A, B>(q: &Tensor<A>, k: &Tensor<B>) -> Result<Self> {
        let [batch, seq_q, seq_k] = lengths(q, k)?;
        Ok(Self::new(batch, seq_q, seq_k))
    }
}

impl DecodeShape {
    /// That of q `[B, H_q, S_q, D]`.
    pub fn of<B>(q: &Tensor<B>) -> Self {
        let [batch, _, seq_q, _] = q.layout.shape;
        Self::new(batch, seq_q)
    }
}

impl RopeShape {
    /// That of q `[B, H_q, S, D]`.
    pub fn of<B>(q: &Tensor<B>) -> Self {
        let [batch, _, seq, _] = q.layout.shape;
        Self::new(batch, seq)
    }
}

impl KvAppendShape {
    /// That of new keys `[B, H_kv, S, D]`, equally many of each sequence.
    pub fn of<B>(k: &Tensor<B>) -> Self {
        let [batch, _, seq, _] = k.layout.shape;
        Self::new(batch, seq)
    }
}

impl MergeShape {
    /// That of parts `[P, B · H, S, D_v]` and their merged output `[B, H, S, D_v]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where they differ in the number of heads, S or D_v.
    pub fn of<A, B>(parts: &Tensor<A>, out: &Tensor<B>) -> Result<Self> {
        let [batch, heads, seq, dim] = out.layout.shape;
        let [count, ..] = parts.layout.shape;
        same("parts", parts, [count, batch.saturating_mul(heads), seq, dim])?;
        Ok(Self::new(count, [batch, heads, seq]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Layout};

    fn tensor(shape: [u32; 4]) -> Tensor<()> {
        Tensor::at((), DType::F32, Layout::bhsd(shape).unwrap()).unwrap()
    }

    #[test]
    fn tensors_say_what_is_the_size_of_a_call() {
        let q = tensor([2, 4, 5, 64]);
        let k = tensor([2, 1, 9, 64]);
        assert_eq!(AttentionShape::of(&q, &k), Ok(AttentionShape::new(2, 5, 9)));
        let linear = LinearAttentionShape { seq_k: 9, ..LinearAttentionShape::new(2, 5) };
        assert_eq!(LinearAttentionShape::of(&q, &k), Ok(linear));
        assert_eq!(ScoresShape::of(&q, &k), Ok(ScoresShape::new(2, 5, 9)));
        assert_eq!(DecodeShape::of(&q), DecodeShape::new(2, 5));
        assert_eq!(RopeShape::of(&q), RopeShape::new(2, 5));
        assert_eq!(KvAppendShape::of(&k), KvAppendShape::new(2, 9));
        for other in [[1, 1, 9, 64], [2, 1, 9, 32]] {
            let error = AttentionShape::of(&q, &tensor(other)).unwrap_err();
            assert_eq!(error, Error::Shape { tensor: "k", needed: [2, 1, 9, 64], got: other });
        }
        let parts = tensor([3, 8, 5, 64]);
        assert_eq!(MergeShape::of(&parts, &q), Ok(MergeShape::new(3, [2, 4, 5])));
        assert!(MergeShape::of(&parts, &k).is_err());
    }
}
