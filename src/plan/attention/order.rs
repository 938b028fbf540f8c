//! In which order the workgroups of a call run.
//!
//! A line is a head row of a batch; a workgroup is a query tile of a line. Lines whose keys and
//! values fit a cache together form a bundle; bundles follow each other, and within one the last
//! query tiles come first, since they see the most keys under a causal mask.

use super::{AttentionPlan, AttentionShape};

/// What is taken for the size of a GPU's last cache: less than any recent one has.
const CACHE_BYTES: u64 = 8 << 20;

/// The order of one call, as `shaders/attention.wgsl` follows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// Head rows × batch.
    pub(super) lines: u64,
    /// Query tiles of a line.
    pub(super) tiles: u64,
    /// Lines of a bundle; the last one may have fewer.
    pub(super) bundle: u64,
}

/// Where a workgroup stands.
pub(super) struct Place {
    /// Its query tile.
    pub(super) tile: u64,
    /// Workgroups of the same tile that follow directly, itself included.
    pub(super) alike: u64,
    /// Workgroups of the same bundle that follow, itself included; none of them has a later tile.
    pub(super) bundled: u64,
}

impl Order {
    pub(super) fn new(plan: &AttentionPlan, shape: &AttentionShape) -> Self {
        let problem = &plan.problem;
        let head_rows = u64::from(plan.head_rows.len());
        let bytes = problem.kv_bytes().saturating_mul(u64::from(shape.seq_k));
        let heads = (CACHE_BYTES / bytes.max(1)).max(1);
        // Whole groups of those that read the same keys.
        let group = (head_rows / u64::from(problem.kv_heads)).max(1);
        let lines = head_rows * u64::from(shape.batch);
        Self {
            lines,
            tiles: u64::from(shape.seq_q.div_ceil(plan.tile.block_q())),
            bundle: heads.saturating_mul(group).min(lines).max(1),
        }
    }

    /// Lines of a bundle, as the shader is told.
    pub(crate) fn bundle(&self) -> u32 {
        u32::try_from(self.bundle).unwrap_or(u32::MAX)
    }

    pub(super) fn groups(&self) -> u64 {
        self.lines.saturating_mul(self.tiles)
    }

    /// Where workgroup `at` stands, of which there must be one.
    pub(super) fn place(&self, at: u64) -> Place {
        let first = at / (self.bundle * self.tiles) * self.bundle;
        let size = self.bundle.min(self.lines - first);
        let within = at - first * self.tiles;
        Place {
            tile: self.tiles - 1 - within / size,
            alike: size - within % size,
            bundled: size * self.tiles - within,
        }
    }
}

impl AttentionPlan {
    /// The order in which a call's workgroups run.
    pub(crate) fn order(&self, shape: &AttentionShape) -> Order {
        Order::new(self, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn every_lane_has_every_tile_once() {
        for (lines, tiles, bundle) in [(1, 1, 1), (5, 3, 2), (6, 4, 6), (7, 2, 3)] {
            let order = Order { lines, tiles, bundle };
            let mut left = vec![lines; tiles as usize];
            let mut at = 0;
            while at < order.groups() {
                let place = order.place(at);
                assert!(place.alike <= place.bundled && place.bundled <= bundle * tiles);
                left[place.tile as usize] -= place.alike;
                at += place.alike;
            }
            assert!(at == order.groups() && left.iter().all(|&n| n == 0));
        }
    }
}
