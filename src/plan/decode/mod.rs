//! Planning a decode call: rows, tile, splits, workspace.

mod candidates;
mod problem;
mod shader;
mod tile;

pub use problem::{DecodeProblem, DecodeShape};
pub(crate) use shader::Bound;
pub use tile::Tile;

use core::num::Saturating;

use crate::plan::head_rows::HeadRows;
use crate::plan::merge::{MergePlan, MergeProblem, MergeShape, PartState};
use crate::plan::{Capabilities, Cost, KernelKind, Shader};
use crate::{DType, Error, Result};

/// How one [`DecodeProblem`] will run: tile, splits, shaders. Pure data; printing it says
/// everything that was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodePlan {
    pub(crate) problem: DecodeProblem,
    pub(crate) capabilities: Capabilities,
    pub(crate) head_rows: HeadRows,
    tile: Tile,
    splits: u32,
    pub(crate) bound: Bound,
    shader: Shader,
    merge: Option<MergePlan>,
}

impl DecodePlan {
    /// Plans with the tile and the splits that suit `capabilities`.
    fn new(problem: &DecodeProblem, capabilities: &Capabilities) -> Result<Self> {
        problem.check()?;
        let head_rows = problem.head_rows();
        let tile = Tile::choose(problem, &head_rows, capabilities)?;
        let splits = Self::choose_splits(problem, &head_rows, &tile, capabilities);
        Self::with_parts(problem, capabilities, tile, splits)
    }

    /// Plans with a tile and a number of splits of the caller's choice, as tuners and tests do.
    /// Results differ between them by rounding only.
    ///
    /// # Errors
    /// As [`DecodeProblem::plan`]; [`Error::Invalid`] for a tile that makes no sense or no splits,
    /// [`Error::Limit`] for a tile that the device has no room for.
    pub fn with_parts(
        problem: &DecodeProblem,
        capabilities: &Capabilities,
        tile: Tile,
        splits: u32,
    ) -> Result<Self> {
        problem.check()?;
        tile.check(problem.cache.value_dim, capabilities)?;
        if splits == 0 || splits > 1 << 16 {
            let needed = "from 1 to 65536";
            return Err(Error::Invalid { what: "splits", needed, got: splits.to_string() });
        }
        let caps = capabilities;
        let (q, out) = (problem.q_dtype.into(), problem.out_dtype.into());
        caps.allow_stored(KernelKind::Decode, [problem.cache.k, problem.cache.v, q, out])?;
        let head_rows = problem.head_rows();
        let bound = Bound::new(problem, splits, caps.max_storage_buffers);
        let merge = match bound.partial {
            false => None,
            true => {
                let merge = MergeProblem {
                    value_dim: problem.cache.value_dim,
                    part_dtype: DType::F32,
                    out_dtype: problem.out_dtype,
                    lse: problem.lse,
                    sinks: problem.sinks.clone(),
                };
                Some(MergePlan::new(&merge, PartState::Sums, caps)?)
            }
        };
        let shader = shader::shader(problem, &head_rows, &tile, bound, caps.software);
        let shader = shader.shared(caps.sharing);
        caps.admit(&shader)?;
        let (problem, capabilities) = (problem.clone(), capabilities.clone());
        Ok(Self { problem, capabilities, head_rows, tile, splits, bound, shader, merge })
    }

    /// Enough workgroups to fill the device, and enough keys in each to be worth one. A function of
    /// the problem's maxima alone, so that a sequence gets the same bits in every call.
    fn choose_splits(
        problem: &DecodeProblem,
        head_rows: &HeadRows,
        tile: &Tile,
        caps: &Capabilities,
    ) -> u32 {
        // Compute units cannot be asked for: about two workgroups for each of a large GPU's. Twice
        // as many are more than an H100 runs at once; with two streams they took a quarter longer.
        let (wanted, least_keys) = if caps.software { (16, 512) } else { (256, 128) };
        let blocks = (head_rows.each * problem.max_seq_q).div_ceil(tile.rows);
        let groups =
            u64::from(problem.max_batch) * u64::from(problem.cache.kv_heads) * u64::from(blocks);
        let keys = match problem.window {
            Some(window) => problem.max_kv.min(window.saturating_add(problem.max_seq_q - 1)),
            None => problem.max_kv,
        };
        let splits = (wanted / groups.max(1)).min(u64::from(keys / least_keys));
        splits.max(1) as u32
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &DecodeProblem {
        &self.problem
    }

    /// The tile.
    pub fn tile(&self) -> &Tile {
        &self.tile
    }

    /// Parts that the keys of every sequence are cut into.
    pub fn splits(&self) -> u32 {
        self.splits
    }

    /// The shader of the first dispatch, as it will be compiled.
    pub fn shader(&self) -> &Shader {
        &self.shader
    }

    /// Whether `kv_lens` and the block table of a call must be ranges of one buffer, since the
    /// device binds too few for both.
    pub fn one_buffer_of_lists(&self) -> bool {
        self.bound.lists
    }

    /// The plan of the second dispatch, which merges the splits; `None` where one does it all.
    pub fn merge(&self) -> Option<&MergePlan> {
        self.merge.as_ref()
    }

    /// Bytes of scratch memory that a call of this shape binds, or a larger one; 0 where one
    /// dispatch does it all. [`DecodeProblem::largest`] is the largest shape.
    pub fn workspace_bytes(&self, shape: &DecodeShape) -> u64 {
        self.workspace(shape).1
    }

    /// Where maxima and sums start in the workspace of a call, and its bytes.
    pub(crate) fn workspace(&self, shape: &DecodeShape) -> (u64, u64) {
        let Some(merge) = &self.merge else { return (0, 0) };
        let n = |x: u32| Saturating(u64::from(x));
        let heads = Saturating(self.problem.heads.heads().len() as u64);
        let rows = n(self.splits) * n(shape.batch) * heads * n(shape.seq_q);
        let out = Saturating(4) * rows * n(self.problem.cache.value_dim);
        let up = |bytes: u64, to| bytes.checked_next_multiple_of(to).unwrap_or(u64::MAX);
        // The merge binds both parts on their own.
        let sums_at = up(out.0, u64::from(self.capabilities.storage_alignment).max(16));
        (sums_at, up((Saturating(sums_at) + Saturating(merge.state_bytes()) * rows).0, 16))
    }

    /// Blocks of rows that a kv head's queries are cut into.
    pub(crate) fn row_blocks(&self, seq_q: u32) -> u32 {
        self.head_rows.each.saturating_mul(seq_q).div_ceil(self.tile.rows)
    }

    /// Work of a call over as many keys a sequence as the problem admits: the most that it may
    /// take. The lengths are on the device.
    pub fn cost(&self, shape: &DecodeShape) -> Cost {
        self.cost_over(shape, self.problem.max_kv)
    }

    /// Work of a call over `keys` keys a sequence, the merge included. A window is not looked at.
    pub fn cost_over(&self, shape: &DecodeShape, keys: u32) -> Cost {
        let p = &self.problem;
        let n = |x: u32| Saturating(u64::from(x));
        let (rows, cache) = (n(shape.batch) * n(shape.seq_q), &p.cache);
        let q = rows * n(p.heads.q_heads()) * n(cache.head_dim) * Saturating(p.q_dtype.size());
        let lse = Saturating(if p.lse { 4 } else { 0 });
        let out = rows
            * Saturating(p.heads.heads().len() as u64)
            * (n(cache.value_dim) * Saturating(p.out_dtype.size()) + lse);
        let bytes = q + out + n(shape.batch) * n(keys) * Saturating(cache.bytes_per_token());
        // Row i of a causal call sees the keys up to n − S_q + i.
        let hidden = |i: u32| if p.causal { shape.seq_q - 1 - i } else { 0 };
        let visible = (0..shape.seq_q.min(p.max_seq_q))
            .fold(Saturating(0), |sum, i| sum + n(keys.saturating_sub(hidden(i))));
        let heads_out = Saturating(p.heads.heads().len() as u64);
        let channels = n(cache.head_dim) + n(cache.value_dim);
        let flops = Saturating(2) * n(shape.batch) * heads_out * visible * channels;
        let workgroups = self.groups(shape);
        let mut cost = Cost::single(workgroups, flops.0, bytes.0);
        if let Some(merge) = self.merge().filter(|_| workgroups > 0) {
            let rows = [shape.batch, heads_out.0 as u32, shape.seq_q];
            let merge = merge.cost(&MergeShape::new(self.splits, rows));
            cost.dispatches += merge.dispatches;
            cost.workgroups = cost.workgroups.saturating_add(merge.workgroups);
            cost.flops = cost.flops.saturating_add(merge.flops);
        }
        cost
    }

    /// Workgroups of the first dispatch.
    pub(crate) fn groups(&self, shape: &DecodeShape) -> u64 {
        let rows = self.row_blocks(shape.seq_q);
        [shape.batch, self.problem.cache.kv_heads, rows, self.splits]
            .iter()
            .fold(1u64, |n, &factor| n.saturating_mul(factor.into()))
    }
}

impl core::fmt::Display for DecodePlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem;
        writeln!(
            f,
            "decode: {} query heads, {} kv heads, {} output heads, D {}, D_v {}, up to {} x {} rows over {} keys, {}",
            p.heads.q_heads(),
            p.cache.kv_heads,
            p.heads.heads().len(),
            p.cache.head_dim,
            p.cache.value_dim,
            p.max_batch,
            p.max_seq_q,
            p.max_kv,
            p.rules(),
        )?;
        writeln!(
            f,
            "  path: {} dispatch{}, {} split{}, {} stream{} a row, {} cache, query {}, storage q {} k {} v {} out {}, arithmetic f32",
            if self.merge.is_some() { 2 } else { 1 },
            if self.merge.is_some() { "es" } else { "" },
            self.splits,
            if self.splits == 1 { "" } else { "s" },
            self.head_rows.streams,
            if self.head_rows.streams == 1 { "" } else { "s" },
            if p.cache.paged { "paged" } else { "contiguous" },
            if p.rotate_q { "rotated in the kernel" } else { "rotated before" },
            p.q_dtype,
            p.cache.k,
            p.cache.v,
            p.out_dtype,
        )?;
        writeln!(f, "  tile: {}", self.tile)?;
        write!(
            f,
            "  {} bytes of workgroup memory, {} storage buffers{}, workspace {} bytes",
            self.shader.workgroup_bytes,
            self.shader.storage_buffers,
            if self.bound.lists { ", one for all lengths and tables" } else { "" },
            self.workspace_bytes(&self.problem.largest()),
        )?;
        self.capabilities.sharing.describe(f, [&self.shader])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;
    use crate::plan::cache::CacheFormat;

    fn problem(heads: HeadMap, kv_heads: u32) -> DecodeProblem {
        DecodeProblem::new(heads, CacheFormat::new(kv_heads, 64), 4, 4096)
    }

    #[test]
    fn splits_depend_on_the_maxima_alone_and_cost_a_workspace() {
        let caps = Capabilities::webgpu_default();
        let mut problem = problem(HeadMap::ropepp(4).unwrap(), 2);
        let plan = problem.plan(&caps).unwrap();
        assert_eq!(plan.splits(), 4096 / 128);
        assert!(plan.merge().is_some());
        let rows = 32 * 4 * 8 * u64::from(problem.max_seq_q);
        assert_eq!(plan.workspace_bytes(&plan.problem().largest()), rows * 66 * 4);
        problem.max_kv = 200;
        let short = problem.plan(&caps).unwrap();
        assert_eq!((short.splits(), short.workspace_bytes(&short.problem().largest())), (1, 0));
        assert!(short.merge().is_none());
        // Nine tensors: with eight bindings, a second dispatch takes the outputs.
        (problem.rotate_q, problem.cache.paged, problem.lse) = (true, true, true);
        let crowded = problem.plan(&caps).unwrap();
        assert_eq!((crowded.splits(), crowded.merge().is_some()), (1, true));
        assert!(crowded.shader().storage_buffers <= 8 && !crowded.one_buffer_of_lists());
        // With a bias, lengths and block table share a binding; without a log-sum-exp, one
        // dispatch is enough then.
        problem.bias = Some(crate::Bias::Mask);
        for (lse, merged) in [(true, true), (false, false)] {
            problem.lse = lse;
            let most = problem.plan(&caps).unwrap();
            assert_eq!((most.one_buffer_of_lists(), most.merge().is_some()), (true, merged));
            assert_eq!(most.shader().storage_buffers, 8, "{most}");
        }
    }

    #[test]
    fn tiles_that_share_keys_take_full_subgroups() {
        let mut caps = Capabilities::webgpu_default();
        let problem = problem(HeadMap::plain(4).unwrap(), 2);
        let tile = Tile { key_lanes: 4, ..Tile::new(64, 1, 2) };
        let plan = |caps: &Capabilities, tile| DecodePlan::with_parts(&problem, caps, tile, 1);
        let missing = plan(&caps, tile).unwrap_err();
        assert!(matches!(missing, Error::Feature { missing: "SUBGROUP", .. }), "{missing}");
        caps.subgroup = Some((4, 64));
        assert_eq!(plan(&caps, tile).unwrap().shader().subgroup, Some((4, u32::MAX)));
        let eight = Tile { key_lanes: 8, ..tile };
        let wrong = [eight, Tile { key_lanes: 3, ..tile }, Tile { threads: 96, ..tile }];
        for tile in wrong {
            assert!(matches!(plan(&caps, tile), Err(Error::Invalid { .. })), "{tile}");
        }
        for subgroup in [None, Some((4, 64)), Some((32, 32))] {
            caps.subgroup = subgroup;
            let tiles = Tile::candidates(&problem, &caps).unwrap();
            assert_eq!(tiles[0], *problem.plan(&caps).unwrap().tile());
            assert!(tiles.iter().all(|&tile| plan(&caps, tile).is_ok()));
            let shares = |lanes| tiles.iter().any(|tile| tile.key_lanes == lanes);
            let least = subgroup.map_or(1, |(least, _)| least);
            assert_eq!([2, 4, 8].map(shares), [2, 4, 8].map(|lanes| lanes <= least));
        }
    }

    #[test]
    fn every_shape_has_a_plan_within_the_default_limits() {
        let caps = Capabilities::webgpu_default();
        for head_dim in (8..=256).step_by(8) {
            for heads in [HeadMap::plain(8).unwrap(), HeadMap::ropepp(8).unwrap()] {
                let cache = CacheFormat::new(1, head_dim);
                let mut problem = DecodeProblem::new(heads, cache, 1, 4096);
                problem.max_seq_q = 16;
                let plan = problem.plan(&caps).unwrap();
                assert!(plan.shader().workgroup_bytes <= 16 << 10, "{plan}");
            }
        }
        // DeepSeek's multi-head latent attention.
        let cache = CacheFormat { value_dim: 512, ..CacheFormat::new(1, 576) };
        let problem = DecodeProblem::new(HeadMap::plain(128).unwrap(), cache, 1, 4096);
        problem.plan(&caps).unwrap();
    }
}
