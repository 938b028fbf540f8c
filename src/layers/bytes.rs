//! What a model's attention takes on the device.

use crate::layers::plan::DECODE_ROWS;
use crate::layers::{Layer, Many, ModelPlan, Rows};
use crate::plan::attention::AttentionShape;
use crate::plan::decode::DecodePlan;
use crate::rotary::RopeConfig;

/// Bytes on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Bytes {
    /// K and V of all layers.
    pub caches: u64,
    /// Cosines and sines, one table for all layers that rotate alike.
    pub tables: u64,
    /// Scratch memory of decode and of prefill that is cut, shared by all layers.
    pub workspace: u64,
    /// Lengths and block tables of a step.
    pub steps: u64,
}

impl Bytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.caches + self.tables + self.workspace + self.steps
    }
}

impl ModelPlan {
    /// Most groups of a step.
    fn groups(&self) -> u64 {
        self.model().sequences.min(self.model().max_rows).into()
    }

    /// Bytes of the lengths of a step, in the worst case.
    pub(super) fn length_bytes(&self) -> u64 {
        let (groups, sequences) = (self.groups(), u64::from(self.model().sequences));
        let pieces = match self.piecewise() {
            true => u64::from(self.model().max_rows / DECODE_ROWS) + groups,
            false => groups,
        };
        // Each range is rounded up; a group's is four bytes a sequence, and every one of its
        // pieces.
        (groups + pieces) * self.alignment() + 4 * sequences * 2 + u64::from(self.model().max_rows)
    }

    /// Bytes of the block tables of a step, in the worst case.
    pub(super) fn table_bytes(&self) -> u64 {
        let entries = u64::from(self.model().sequences) * u64::from(self.max_pages());
        if self.paged() { 4 * entries + self.groups() * self.alignment() } else { 0 }
    }

    /// Where block tables lie behind the lengths, where the cache is paged.
    pub(super) fn tables_at(&self) -> Option<u64> {
        self.paged().then(|| self.length_bytes().next_multiple_of(self.alignment()))
    }

    /// Bytes of both.
    pub(super) fn list_bytes(&self) -> u64 {
        self.tables_at().unwrap_or(self.length_bytes()) + self.table_bytes()
    }

    /// Bytes of scratch memory of decode calls.
    pub(super) fn workspace_bytes(&self) -> u64 {
        let most = |plan: &DecodePlan| plan.workspace_bytes(&plan.problem().largest());
        let all = self.kinds().0.iter().flat_map(|kind| {
            let many = match &kind.many {
                Some(Many::Decode(plan)) => most(plan),
                _ => 0,
            };
            [most(&kind.decode), many]
        });
        all.max().unwrap_or(0)
    }

    /// The largest prefill: every sequence with as many new rows as a step has.
    fn longest(&self) -> AttentionShape {
        let rows = self.model().max_rows.min(self.capacity());
        AttentionShape::new(self.model().sequences, rows, self.capacity())
    }

    /// Bytes that prefill keeps between the parts of a call.
    pub(super) fn state_bytes(&self) -> u64 {
        let all = self.kinds().0.iter().map(|kind| match &kind.many {
            Some(Many::Prefill(plan)) => plan.workspace_bytes(&self.longest()),
            _ => 0,
        });
        all.max().unwrap_or(0)
    }

    /// Bytes that [`Layers::new`](crate::layers::Layers::new) allocates on the device, but for a
    /// few kilobytes of parameters; q, k, v and out are the caller's.
    pub fn bytes(&self) -> Bytes {
        let model = self.model();
        let rows = match model.rows {
            Rows::Contiguous => u64::from(model.sequences) * u64::from(model.capacity),
            Rows::Paged { page_size, pages } => u64::from(page_size) * u64::from(pages),
        };
        let row = |layer: &Layer| layer.format(self.paged()).bytes_per_token();
        let pairs = |rope: &RopeConfig| u64::from(rope.rotary_dim / 2);
        Bytes {
            caches: rows * model.layers.iter().map(row).sum::<u64>(),
            tables: 8
                * u64::from(self.capacity())
                * self.ropes().into_iter().map(pairs).sum::<u64>(),
            workspace: self.workspace_bytes() + self.state_bytes(),
            steps: self.list_bytes(),
        }
    }
}
