//! What one call does, in numbers.

use core::num::Saturating;

use super::AttentionPlan;
use crate::DType;
use crate::plan::Cost;

/// The sizes that change from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// B.
    pub batch: u32,
    /// S_q: queries of each batch.
    pub seq_q: u32,
    /// S_k: keys of each batch, padding included.
    pub seq_k: u32,
    /// Place of query 0 among the keys: query i sees the keys `j <= i + query_offset`. `None`
    /// aligns the last query with the last key, `S_k − S_q`. Read where causal mask, window or
    /// ALiBi ask.
    pub query_offset: Option<i32>,
}

impl AttentionShape {
    /// Every query sees every key up to its own place, the last query the last key.
    pub fn new(batch: u32, seq_q: u32, seq_k: u32) -> Self {
        Self { batch, seq_q, seq_k, query_offset: None }
    }

    /// The offset in force.
    pub fn offset(&self) -> i64 {
        self.query_offset.map_or(i64::from(self.seq_k) - i64::from(self.seq_q), i64::from)
    }

    /// Keys that query rows see, added up over the rows of one head of one batch.
    pub(crate) fn visible(&self, causal: bool) -> u64 {
        if !causal {
            return u64::from(self.seq_q) * u64::from(self.seq_k);
        }
        // Row i sees clamp(i + offset + 1, 0, S_k) keys: none, a rising middle, then all.
        let (rows, keys) = (i128::from(self.seq_q), i128::from(self.seq_k));
        let first = i128::from(self.offset()) + 1;
        let rise = (-first).clamp(0, rows);
        let full = (keys - first).clamp(rise, rows);
        let middle = (full - rise) * (2 * first + rise + full - 1) / 2;
        u64::try_from(middle + (rows - full) * keys).unwrap_or(u64::MAX)
    }
}

pub(super) fn cost(plan: &AttentionPlan, shape: &AttentionShape) -> Cost {
    let p = &plan.problem;
    // Numbers past 64 bits, which no device gets to, stay at the largest one.
    let n = |x: u32| Saturating(u64::from(x));
    let size = |dtype: DType| Saturating(dtype.size());
    let (batch, d, dv) = (n(shape.batch), n(p.head_dim), n(p.value_dim));
    let heads_out = Saturating(p.heads.heads().len() as u64);
    let head_rows = n(plan.head_rows.len());
    let tiles = n(shape.seq_q.div_ceil(plan.tile.block_q()));
    let visible = batch * Saturating(shape.visible(p.causal));
    let q = batch * n(p.heads.q_heads()) * n(shape.seq_q) * d * size(p.q_dtype);
    let kv = batch * n(p.kv_heads) * n(shape.seq_k) * Saturating(p.kv_bytes());
    let rows_out = batch * heads_out * n(shape.seq_q);
    let lse = Saturating(if p.lse { 4 } else { 0 });
    let out = rows_out * (dv * size(p.out_dtype) + lse);
    let fetches = Saturating(visible.0.div_ceil(u64::from(plan.tile.block_q())));
    let kv_requested = fetches * head_rows * Saturating(p.kv_bytes());
    Cost {
        dispatches: u32::from(rows_out.0 > 0),
        workgroups: (batch * head_rows * tiles).0,
        flops: (visible * heads_out * Saturating(2) * (d + dv)).0,
        bytes: (q + kv + out).0,
        bytes_requested: Some((q + kv_requested + out).0),
    }
}

#[cfg(test)]
mod tests {
    use super::AttentionShape;

    #[test]
    fn visible_keys_equal_a_count() {
        for (seq_q, seq_k) in [(0, 0), (1, 1), (5, 5), (5, 9), (9, 5), (1, 40), (7, 0)] {
            for query_offset in [None, Some(0), Some(3), Some(-4), Some(100), Some(-100)] {
                let shape = AttentionShape { batch: 1, seq_q, seq_k, query_offset };
                let count = (0..i64::from(seq_q))
                    .map(|i| (i + shape.offset() + 1).clamp(0, i64::from(seq_k)) as u64)
                    .sum::<u64>();
                assert_eq!(shape.visible(true), count, "{shape:?}");
            }
        }
    }
}
