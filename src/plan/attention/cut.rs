//! Cutting one call into dispatches that keep a budget.
//!
//! Workgroups stand in one line, and a part of the call is a run of them. Where a run of whole
//! workgroups would be too long, or too short to fill a GPU, a plan that is
//! [resumable](super::AttentionProblem::resumable) takes a band of workgroups and cuts its keys:
//! each part walks so many key tiles, leaves the softmax states in the workspace, and the next one
//! takes them up again. Nothing is merged, so every number is made by the same operations in the
//! same order as in one go.

use super::order::Order;
use super::{Alignment, AttentionPlan, AttentionProblem, AttentionShape, Queries, Tile};
use crate::plan::Budget;
use crate::plan::head_rows::HeadRows;
use crate::{Error, Result};

/// Workgroups that are cut between keys together: enough to keep a large GPU busy, few enough for
/// their states to take a few megabytes.
const BAND: u32 = 256;
/// Most parts of a call: each has its parameters and its bind group.
const MOST_PARTS: usize = 1 << 14;

/// One dispatch of a call that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutPart {
    /// The first of its workgroups.
    pub first_group: u32,
    /// How many workgroups it has.
    pub groups: u32,
    /// The key tiles it walks, first and end, counted from the first that each workgroup visits.
    /// Where it does not begin with the first, states are taken up from the workspace.
    pub steps: (u32, u32),
    /// Whether it comes to the end of the keys and writes outputs; otherwise it leaves states.
    pub last: bool,
    /// Floating-point operations that it executes, hidden keys and padding of visited tiles
    /// counted. An upper bound where lengths are known to the device alone.
    pub flops: u64,
}

/// A call as a row of dispatches, made by [`AttentionPlan::cut`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    parts: Vec<CutPart>,
    workspace_bytes: u64,
}

impl Cut {
    /// The dispatches, to be recorded in this order.
    pub fn parts(&self) -> &[CutPart] {
        &self.parts
    }

    /// Bytes of scratch memory that the caller must provide; 0 where no key range is cut. They must
    /// not change between the call's first part and its last.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace_bytes
    }

    /// Floating-point operations of the largest part.
    pub fn largest(&self) -> u64 {
        self.parts.iter().map(|part| part.flops).max().unwrap_or(0)
    }

    fn push(&mut self, part: CutPart) -> Result<()> {
        if self.parts.len() == MOST_PARTS {
            return Err(Error::Invalid {
                what: "budget",
                needed: "enough to cut the call into at most 16384 parts",
                got: format!("{} FLOP for each of these", self.largest()),
            });
        }
        self.parts.push(part);
        Ok(())
    }
}

impl core::fmt::Display for Cut {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} part{}, {:.6} GFLOP the largest, workspace {} bytes",
            self.parts.len(),
            if self.parts.len() == 1 { "" } else { "s" },
            self.largest() as f64 * 1e-9,
            self.workspace_bytes,
        )
    }
}

/// The work of a call, workgroup by workgroup.
struct Line<'a> {
    plan: &'a AttentionPlan,
    shape: &'a AttentionShape,
    order: Order,
    /// Operations of one workgroup and key tile.
    step_flops: u64,
}

impl<'a> Line<'a> {
    fn new(plan: &'a AttentionPlan, shape: &'a AttentionShape) -> Self {
        let n = u64::from;
        let (tile, p) = (&plan.tile, &plan.problem);
        let pairs = n(tile.block_q()) * n(tile.block_k());
        let channels = n(p.head_dim) + n(p.value_dim);
        Self {
            plan,
            shape,
            order: plan.order(shape),
            step_flops: 2 * n(plan.head_rows.streams) * pairs * channels,
        }
    }

    fn groups(&self) -> u64 {
        self.order.groups()
    }

    /// Most key tiles that a workgroup of this query tile visits; never fewer than of the tile
    /// before.
    fn steps(&self, tile: u64) -> u64 {
        let n = u64::from;
        let (p, shape) = (&self.plan.problem, self.shape);
        let (block_q, block_k) = (n(self.plan.tile.block_q()), n(self.plan.tile.block_k()));
        let rows = ((tile + 1) * block_q).min(n(shape.seq_q)) as i64;
        let offset = match (p.alignment, p.queries) {
            (Alignment::Shape, _) => shape.offset(),
            // A sequence with fewer keys stands further back, one with fewer rows further on.
            (Alignment::LastKey, Queries::Batched) => {
                i64::from(shape.seq_k) - i64::from(shape.seq_q)
            }
            (Alignment::LastKey, Queries::Ragged) => i64::from(shape.seq_k),
        };
        if p.cache().rolling {
            return self.all_steps();
        }
        let visible = match p.rules().ahead().filter(|_| !p.prefix) {
            Some(ahead) => {
                let end = rows + offset + i64::from(ahead);
                u64::try_from(end).unwrap_or(0).min(n(shape.seq_k))
            }
            None => n(shape.seq_k),
        };
        // A window may begin at the last key of a tile; rows of a prefix have none.
        let window = match p.window.filter(|_| !p.prefix) {
            Some(window) => n(window) + n(p.rules().ahead().unwrap_or(0)) + block_q + block_k - 2,
            None => u64::MAX,
        };
        visible.div_ceil(block_k).min(window.div_ceil(block_k))
    }

    /// Most key tiles that any workgroup visits. What is left in a rolling cache may begin at the
    /// last key of a tile.
    fn all_steps(&self) -> u64 {
        let block_k = u64::from(self.plan.tile.block_k());
        let spare = if self.plan.problem.cache().rolling { block_k - 1 } else { 0 };
        (u64::from(self.shape.seq_k) + spare).div_ceil(block_k)
    }

    /// Workgroups from `first` on, at most `most`, that fit within `budget` as they are, and the
    /// operations of these.
    fn whole(&self, first: u64, most: u64, budget: u64) -> (u64, u64) {
        let (mut groups, mut flops) = (0, 0_u64);
        while groups < most {
            let at = first + groups;
            let place = self.order.place(at);
            let each = self.steps(place.tile).saturating_mul(self.step_flops);
            let count = place.alike.min(most - groups);
            let fit = (budget - flops).checked_div(each).unwrap_or(count).min(count);
            groups += fit;
            flops = each.saturating_mul(fit).saturating_add(flops);
            if fit < count {
                break;
            }
        }
        (groups, flops)
    }
}

impl AttentionPlan {
    /// The smallest budget that [`AttentionPlan::cut`] takes: one key tile of one workgroup where
    /// the plan is resumable, all key tiles of the longest one where it is not.
    pub fn least_budget(&self, shape: &AttentionShape) -> Budget {
        let line = Line::new(self, shape);
        let longest = line.order.tiles.checked_sub(1).map_or(0, |tile| line.steps(tile));
        let steps = if self.problem.resumable { longest.min(1) } else { longest };
        Budget::flops(steps.saturating_mul(line.step_flops))
    }

    /// Cuts a call into dispatches of at most `budget` each. [`Budget::UNLIMITED`] gives one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a budget below [`AttentionPlan::least_budget`], or so small that the
    /// call would have more than 16384 parts; [`Error::IndexOverflow`] for more workgroups than 32
    /// bits count.
    pub fn cut(&self, shape: &AttentionShape, budget: Budget) -> Result<Cut> {
        let line = Line::new(self, shape);
        let limit = budget.limit();
        let least = self.least_budget(shape).limit();
        if limit < least {
            return Err(Error::Invalid {
                what: "budget",
                needed: "enough for a workgroup or, of a resumable plan, one of its key tiles",
                got: format!("{limit} FLOP, where that takes {least}"),
            });
        }
        let Ok(groups) = u32::try_from(line.groups()) else {
            return Err(Error::IndexOverflow { tensor: "workgroups", index: line.groups() });
        };
        let all_steps = line.all_steps() as u32;
        let mut cut = Cut { parts: Vec::new(), workspace_bytes: 0 };
        let mut first_group = 0;
        while first_group < groups {
            let rest = groups - first_group;
            let (fit, flops) = line.whole(first_group.into(), rest.into(), limit);
            let fit = fit as u32;
            let place = line.order.place(first_group.into());
            let band = u64::from(BAND).min(place.bundled).min(rest.into());
            if u64::from(fit) >= band || !self.problem.resumable {
                let steps = (0, all_steps);
                cut.push(CutPart { first_group, groups: fit, steps, last: true, flops })?;
                first_group += fit;
            } else {
                let band = band.min(limit / line.step_flops) as u32;
                let step_flops = u64::from(band) * line.step_flops;
                let each = u32::try_from(limit / step_flops).unwrap_or(u32::MAX);
                // Within a bundle the first workgroup is the one with the most keys.
                let steps = line.steps(place.tile) as u32;
                for first in (0..steps).step_by(each as usize) {
                    let end = first.saturating_add(each).min(steps);
                    let last = end == steps;
                    let flops = u64::from(end - first) * step_flops;
                    // The last part runs to the end: sequences on the device may be longer than the
                    // host counts.
                    let steps = (first, if last { all_steps } else { end });
                    cut.push(CutPart { first_group, groups: band, steps, last, flops })?;
                }
                if steps > each {
                    let states = u64::from(band) * self.state_bytes();
                    cut.workspace_bytes = cut.workspace_bytes.max(states);
                }
                first_group += band;
            }
        }
        Ok(cut)
    }

    /// Bytes of scratch memory that are enough for a call of this shape, however it is cut; 0 where
    /// the plan is not resumable. [`Cut::workspace_bytes`] is what one cut takes.
    pub fn workspace_bytes(&self, shape: &AttentionShape) -> u64 {
        let at_once = self.cost(shape).workgroups.min(BAND.into());
        if self.problem.resumable { at_once * self.state_bytes() } else { 0 }
    }

    /// Bytes of the softmax states of one workgroup.
    fn state_bytes(&self) -> u64 {
        let len = state_len(&self.head_rows, &self.tile, &self.problem);
        16 * u64::from(self.tile.threads()) * u64::from(len)
    }
}

/// Vectors of four numbers that an invocation carries from one key tile to the next: maxima, sums,
/// accumulators.
pub(super) fn state_len(head_rows: &HeadRows, tile: &Tile, problem: &AttentionProblem) -> u32 {
    if let Tile::Matrices(tile) = tile {
        return head_rows.streams * tile.state_len(problem);
    }
    let [_, _, row_pairs, _] = tile.grid();
    let states = head_rows.streams * 2 * row_pairs;
    2 * states.div_ceil(4) + states * tile.cols(problem.value_dim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capabilities, HeadMap};

    fn plans() -> Vec<AttentionPlan> {
        let problem = AttentionProblem::new(HeadMap::ropepp(3).unwrap(), 1, 64);
        let resumable = AttentionProblem { resumable: true, ..problem.clone() };
        let window = AttentionProblem { window: Some(50), ..resumable.clone() };
        let full = AttentionProblem { causal: false, ..resumable.clone() };
        let both_sides = AttentionProblem { causal: false, ..window.clone() };
        let caps = Capabilities::webgpu_default();
        [problem, resumable, window, full, both_sides]
            .iter()
            .map(|p| p.plan(&caps).unwrap())
            .collect()
    }

    /// Every workgroup walks all of its key tiles, in order, once, and within the budget.
    #[test]
    fn parts_add_up_to_the_call() {
        for plan in plans() {
            for (batch, seq_q, seq_k) in [(1, 1, 1), (2, 300, 300), (1, 1000, 1), (3, 77, 900)] {
                let shape = AttentionShape::new(batch, seq_q, seq_k);
                let line = Line::new(&plan, &shape);
                let least = plan.least_budget(&shape).limit();
                let all = line.whole(0, line.groups(), u64::MAX).1;
                for budget in [least, least + 1, 3 * least, 1000 * least, all - 1, all, u64::MAX] {
                    let budget = budget.max(least);
                    let cut = plan.cut(&shape, Budget::flops(budget)).unwrap();
                    let mut next = vec![0; line.groups() as usize];
                    let mut done = vec![false; next.len()];
                    let mut held: u64 = 0;
                    for part in cut.parts() {
                        assert!(part.flops <= budget && part.groups > 0, "{part:?}");
                        for group in part.first_group..part.first_group + part.groups {
                            let group = group as usize;
                            assert!(!done[group] && next[group] == part.steps.0, "{part:?}");
                            (next[group], done[group]) = (part.steps.1, part.last);
                        }
                        let states = u64::from(!part.last || part.steps.0 > 0);
                        held = held.max(states * u64::from(part.groups));
                    }
                    assert!(done.iter().all(|&done| done));
                    assert!(next.iter().all(|&end| end == seq_k.div_ceil(plan.tile().block_k())));
                    assert_eq!(cut.workspace_bytes(), held * plan.state_bytes());
                    assert_eq!(budget >= all, cut.parts().len() == 1, "{cut}");
                }
                let under = Budget::flops(least - 1);
                assert!(matches!(plan.cut(&shape, under), Err(Error::Invalid { .. })));
            }
        }
    }

    #[test]
    fn too_many_parts_are_refused() {
        let shape = AttentionShape::new(1, 1 << 17, 1 << 17);
        let plan = &plans()[1];
        let least = plan.least_budget(&shape);
        assert!(matches!(plan.cut(&shape, least), Err(Error::Invalid { what: "budget", .. })));
    }

    /// The bound on the key tiles of a query tile is what the shader walks, counted one by one.
    #[test]
    fn steps_are_those_of_the_shader() {
        for plan in plans() {
            let p = plan.problem();
            let [block_q, block_k] = [plan.tile().block_q(), plan.tile().block_k()].map(i64::from);
            for (seq_q, seq_k) in [(1, 1), (300, 300), (200, 900), (900, 200)] {
                let shape = AttentionShape::new(1, seq_q, seq_k);
                let line = Line::new(&plan, &shape);
                for tile in 0..line.order.tiles {
                    let first = tile as i64 * block_q;
                    let last = (first + block_q).min(i64::from(seq_q)) - 1;
                    let offset = if p.rules().placed() { shape.offset() } else { 0 };
                    let ahead = p.rules().ahead().map_or(1 << 29, i64::from);
                    let visible = (last + offset + ahead + 1).clamp(0, i64::from(seq_k));
                    let window = p.window.map_or(3 << 29, i64::from);
                    let start = (first + offset - window + 1).max(0) / block_k * block_k;
                    let walked = ((visible - start).max(0) + block_k - 1) / block_k;
                    let spare = line.steps(tile) as i64 - walked;
                    let most = i64::from(p.window.is_some()) * 2;
                    assert!((0..=most).contains(&spare), "tile {tile}: {walked} and {spare}");
                }
            }
        }
    }
}
