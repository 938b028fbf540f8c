//! Cutting the large passes into dispatches that keep a budget.

use super::{AttentionBackwardPlan, Side};
use crate::plan::Budget;
use crate::plan::attention::{Alignment, AttentionShape};
use crate::{Error, Result};

/// A run of workgroups of one of the large passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) first_group: u32,
    pub(crate) groups: u32,
    pub(crate) flops: u64,
}

/// Most parts of a pass: each has its parameters and its bind group.
const MOST_PARTS: usize = 1 << 14;

impl AttentionBackwardPlan {
    /// Most walked tiles of a workgroup that owns this tile of rows.
    fn steps(&self, shape: &AttentionShape, side: Side, tile: u64) -> u64 {
        let n = u64::from;
        let p = &self.problem.attention;
        let (own, walked) = (n(self.tile(side).own_rows()), n(self.tile(side).walked_rows()));
        // Where the device alone knows lengths, all rows of the other side may be walked over.
        let ahead = p.rules().ahead().map(i64::from);
        let ahead = ahead.filter(|_| !p.prefix && p.alignment == Alignment::Shape);
        let offset = shape.offset();
        let head_rows = match side {
            Side::Queries => n(self.head_rows.of_a_query_head),
            Side::Keys => n(self.head_rows.each),
        };
        let rows = match (side, ahead) {
            (Side::Queries, Some(ahead)) if !self.problem.d_bias => {
                let last = ((tile + 1) * own).min(n(shape.seq_q)) as i64;
                u64::try_from(last + offset + ahead).unwrap_or(0).min(n(shape.seq_k))
            }
            (Side::Queries, _) => n(shape.seq_k),
            (Side::Keys, Some(ahead)) => {
                let first = (tile * own) as i64 - offset - ahead;
                let first = first.clamp(0, i64::from(shape.seq_q));
                // The first walked tile may begin before the first row that sees a key.
                n(shape.seq_q) - first as u64 / walked * walked
            }
            (Side::Keys, None) => n(shape.seq_q),
        };
        // A window may begin at the last row of a tile; within a prefix there is none.
        let window = match p.window.filter(|_| !p.prefix && !self.problem.d_bias) {
            Some(window) => n(window) + n(p.rules().ahead().unwrap_or(0)) + own + walked - 2,
            None => u64::MAX,
        };
        head_rows * rows.min(window).div_ceil(walked)
    }

    /// Operations of one workgroup and walked tile.
    fn step_flops(&self, side: Side) -> u64 {
        let n = u64::from;
        let p = &self.problem.attention;
        let tile = self.tile(side);
        let (d, dv) = (n(p.head_dim), n(p.value_dim));
        let products = match side {
            Side::Queries => 2 * d + dv,
            Side::Keys => 2 * d + 2 * dv,
        };
        2 * n(self.streams()) * n(tile.own_rows()) * n(tile.walked_rows()) * products
    }

    pub(crate) fn tiles(&self, shape: &AttentionShape, side: Side) -> u32 {
        let rows = match side {
            Side::Queries => shape.seq_q,
            Side::Keys => shape.seq_k,
        };
        rows.div_ceil(self.tile(side).own_rows())
    }

    fn lines(&self, shape: &AttentionShape, side: Side) -> u64 {
        let p = &self.problem.attention;
        let heads = match side {
            Side::Queries => p.heads.q_heads(),
            Side::Keys => p.kv_heads,
        };
        u64::from(heads) * u64::from(shape.batch)
    }

    /// The smallest budget that a call takes: all that its longest workgroup walks over.
    pub fn least_budget(&self, shape: &AttentionShape) -> Budget {
        let longest = |side| {
            let tiles = u64::from(self.tiles(shape, side));
            let most = (0..tiles).map(|tile| self.steps(shape, side, tile)).max().unwrap_or(0);
            most.saturating_mul(self.step_flops(side))
        };
        Budget::flops(longest(Side::Queries).max(longest(Side::Keys)))
    }

    /// Cuts a pass into dispatches of at most `budget` each.
    pub(crate) fn cut(
        &self,
        shape: &AttentionShape,
        side: Side,
        budget: Budget,
    ) -> Result<Vec<Part>> {
        let (lines, tiles) = (self.lines(shape, side), u64::from(self.tiles(shape, side)));
        let groups = lines.saturating_mul(tiles);
        if u32::try_from(groups).is_err() {
            return Err(Error::IndexOverflow { tensor: "workgroups", index: groups });
        }
        let limit = budget.limit();
        let mut parts: Vec<Part> = Vec::new();
        let mut open: Option<Part> = None;
        for step in 0..tiles {
            let tile = if side == Side::Keys { step } else { tiles - 1 - step };
            let each = self.steps(shape, side, tile).saturating_mul(self.step_flops(side));
            let mut left = lines;
            while left > 0 {
                let mut part = open.take().unwrap_or(Part {
                    first_group: (step * lines + (lines - left)) as u32,
                    groups: 0,
                    flops: 0,
                });
                let fit = (limit - part.flops).checked_div(each).unwrap_or(left).min(left);
                part.groups += fit as u32;
                part.flops += fit * each;
                left -= fit;
                if part.groups == 0 || parts.len() == MOST_PARTS {
                    let got = format!("{limit} FLOP, where a workgroup takes {each}");
                    return Err(Error::Invalid {
                        what: "budget",
                        needed: "enough for a workgroup, and for at most 16384 parts",
                        got,
                    });
                }
                if left > 0 {
                    parts.push(part);
                } else {
                    open = Some(part);
                }
            }
        }
        parts.extend(open);
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::attention::AttentionProblem;
    use crate::plan::attention_backward::AttentionBackwardProblem;
    use crate::{Capabilities, HeadMap};

    #[test]
    fn parts_are_all_workgroups_in_order() {
        let forward = AttentionProblem::new(HeadMap::ropepp(4).unwrap(), 2, 64);
        let windowed = AttentionProblem { window: Some(40), ..forward.clone() };
        let both_ways = AttentionProblem { causal: false, ..windowed.clone() };
        for forward in [forward, windowed, both_ways] {
            let problem = AttentionBackwardProblem::new(forward);
            let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
            for (seq_q, seq_k) in [(1, 1), (300, 300), (77, 900), (500, 20)] {
                let shape = AttentionShape::new(3, seq_q, seq_k);
                let least = plan.least_budget(&shape).limit();
                for side in [Side::Queries, Side::Keys] {
                    let all = plan.lines(&shape, side) as u32 * plan.tiles(&shape, side);
                    for budget in [least, 3 * least + 7, u64::MAX] {
                        let parts = plan.cut(&shape, side, Budget::flops(budget)).unwrap();
                        let mut next = 0;
                        for part in &parts {
                            assert!(part.first_group == next && part.flops <= budget);
                            next += part.groups;
                        }
                        assert_eq!(next, all);
                        assert!(budget < u64::MAX || parts.len() == 1);
                    }
                }
                if least > 0 {
                    let under = Budget::flops(least - 1);
                    let refused = |side| plan.cut(&shape, side, under).is_err();
                    assert!(refused(Side::Queries) || refused(Side::Keys));
                }
            }
        }
    }
}
