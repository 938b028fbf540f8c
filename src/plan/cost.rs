//! The work of one call, in numbers.

/// Work of one call, from the `cost` of a plan. Numbers past 64 bits, which no device gets to, stay
/// at the largest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Compute dispatches; 0 where there is nothing to compute.
    pub dispatches: u32,
    /// Workgroups of all of them.
    pub workgroups: u64,
    /// Floating-point operations that the result needs, a multiply-add counted as two: matrix
    /// products and rotations, not the conversion of storage. Masked and padded work is not
    /// counted.
    pub flops: u64,
    /// Bytes of the tensors that are read and written, each counted once.
    pub bytes: u64,
    /// Bytes that the workgroups ask the memory system for, where the plan knows them: in
    /// attention, K and V once a query tile and query head. What lies between the two is the
    /// caches' part.
    pub bytes_requested: Option<u64>,
}

impl Cost {
    /// A call of one dispatch, or of none.
    pub(crate) fn single(workgroups: u64, flops: u64, bytes: u64) -> Self {
        let dispatches = u32::from(workgroups > 0);
        Self { dispatches, workgroups, flops, bytes, bytes_requested: None }
    }
}

/// Operations of rotating so many pairs: four products and two sums each.
pub(crate) fn rotation_flops(pairs: u64) -> u64 {
    pairs.saturating_mul(6)
}

impl core::fmt::Display for Cost {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{} dispatch{}, {} workgroups, {:.3} GFLOP, {:.2} MiB of tensors",
            self.dispatches,
            if self.dispatches == 1 { "" } else { "es" },
            self.workgroups,
            self.flops as f64 * 1e-9,
            mib(self.bytes),
        )?;
        match self.bytes_requested {
            Some(bytes) => write!(f, ", {:.2} MiB requested", mib(bytes)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::Capabilities;
    use crate::plan::cache::CacheFormat;
    use crate::plan::decode::{DecodeProblem, DecodeShape};
    use crate::plan::kv_move::{KvMoveProblem, KvMoveShape, Move};
    use crate::plan::rope::{RopeProblem, RopeShape};
    use crate::{HeadMap, Result};

    #[test]
    fn rows_of_a_decode_see_the_keys_before_them() -> Result<()> {
        let caps = Capabilities::webgpu_default();
        let problem = DecodeProblem {
            max_seq_q: 4,
            ..DecodeProblem::new(HeadMap::ropepp(2)?, CacheFormat::new(1, 8), 3, 40)
        };
        let plan = problem.plan(&caps)?;
        // 3 sequences, 4 output heads, D + D_v = 16, a multiply-add is two.
        let of = |visible: u64| 2 * 3 * 4 * 16 * visible;
        let shape = DecodeShape::new(3, 4);
        let merged = plan.merge().map_or(0, |_| 2 * 3 * 4 * 4 * 8 * u64::from(plan.splits()));
        assert_eq!(plan.cost(&shape).flops, of(37 + 38 + 39 + 40) + merged);
        assert_eq!(plan.cost_over(&shape, 2).flops, of(1 + 2) + merged);
        assert_eq!(plan.cost(&DecodeShape::new(0, 4)).dispatches, 0);
        Ok(())
    }

    #[test]
    fn rotations_and_moves_count_pairs_and_rows() -> Result<()> {
        let caps = Capabilities::webgpu_default();
        let rope = RopeProblem::new(3, 1, 8).plan(&caps)?.cost(&RopeShape::new(2, 5));
        assert_eq!((rope.flops, rope.dispatches), (6 * 2 * 5 * 4 * 4, 1));
        // In and out, and eight floats of the table a position.
        assert_eq!(rope.bytes, 2 * 5 * (2 * 4 * 8 * 4 + 8 * 4));

        let problem = KvMoveProblem::new(CacheFormat::new(3, 8));
        let moves = [Move::shift(0, 0, 4, 12), Move::prefix(0, 1, 5)];
        let cost = problem.plan(&caps)?.cost(&KvMoveShape::new(2, &moves));
        assert_eq!(cost.bytes, 2 * (8 + 5) * 3 * 2 * 8 * 4);
        Ok(())
    }
}
