//! Planning linear attention: passes, tile, workspace, cost.

mod problem;
mod shader;

pub use problem::{FeatureMap, LinearAttentionProblem};
pub(crate) use shader::{SUMS_STEP, WORKGROUP, head_slots, joined};

use core::num::Saturating;

use crate::DType;
use crate::plan::{Capabilities, Cost, KernelKind, Shader};
use crate::{Error, Result};

/// Invocations of a workgroup, and the part of a square tile that each owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) tx: u32,
    pub(crate) ty: u32,
    /// Rows an invocation, a multiple of 4.
    pub(crate) rows: u32,
    /// Quads of columns an invocation.
    pub(crate) cols: u32,
    /// Whether loops stay loops, so that a software adapter compiles less.
    pub(crate) compact: bool,
}

impl Tile {
    /// Few invocations with much work where they run on a CPU, as for attention.
    pub(crate) fn of(capabilities: &Capabilities) -> Self {
        match capabilities.software {
            true => Self { tx: 4, ty: 4, rows: 8, cols: 2, compact: true },
            false => Self { tx: 16, ty: 16, rows: 4, cols: 1, compact: false },
        }
    }

    pub(crate) fn threads(self) -> u32 {
        self.tx * self.ty
    }

    /// Rows of a tile, and its columns.
    pub(crate) fn block(self) -> u32 {
        self.ty * self.rows
    }
}

/// Sizes that change from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinearAttentionShape {
    /// B.
    pub batch: u32,
    /// S_q: queries of each batch.
    pub seq_q: u32,
    /// S_k: keys of each batch; with a causal mask, equal to S_q.
    pub seq_k: u32,
    /// Whether the call goes on from the state bound. Where it does not, it starts from zero and
    /// what the state held before does not matter.
    pub resume: bool,
}

impl LinearAttentionShape {
    /// A sequence from its beginning: query i is the token of key i.
    pub fn new(batch: u32, seq: u32) -> Self {
        Self { batch, seq_q: seq, seq_k: seq, resume: false }
    }

    /// Whether a problem has calls of these sizes.
    pub(crate) fn check(&self, problem: &LinearAttentionProblem) -> Result<()> {
        if problem.causal && self.seq_q != self.seq_k {
            let got = format!("{} queries, {} keys", self.seq_q, self.seq_k);
            return Err(Error::Invalid { what: "seq_q", needed: "seq_k, if causal", got });
        }
        if self.resume && !problem.state {
            let (needed, got) = ("false where the problem has no state", "true".into());
            return Err(Error::Invalid { what: "resume", needed, got });
        }
        Ok(())
    }
}

/// How one [`LinearAttentionProblem`] will run: a pass that sums up the state of every chunk, one
/// that scans the chunks, one that computes the outputs; in front of them, for random features, one
/// over the queries and one over the keys.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearAttentionPlan {
    pub(crate) problem: LinearAttentionProblem,
    pub(crate) capabilities: Capabilities,
    pub(crate) tile: Tile,
    /// Passes in their order, see [`LinearAttentionPlan::shaders`].
    pub(crate) shaders: Vec<Shader>,
}

impl LinearAttentionPlan {
    fn new(problem: &LinearAttentionProblem, capabilities: &Capabilities) -> Result<Self> {
        problem.check()?;
        let p = problem;
        let stored = [p.q_dtype, p.kv_dtype, p.out_dtype];
        capabilities.allow_stored(KernelKind::LinearAttention, stored)?;
        let tile = Tile::of(capabilities);
        let mut shaders = Vec::new();
        if problem.is_favor() {
            shaders.push(shader::favor(problem, problem.q_dtype));
            shaders.push(shader::favor(problem, problem.kv_dtype));
        }
        shaders.push(shader::sums(problem, &tile));
        shaders.push(shader::scan(problem, &tile));
        shaders.push(shader::outputs(problem, &tile));
        let shaders: Vec<Shader> =
            shaders.into_iter().map(|shader: Shader| shader.shared(capabilities.sharing)).collect();
        for shader in &shaders {
            capabilities.admit(shader)?;
        }
        Ok(Self { problem: problem.clone(), capabilities: capabilities.clone(), tile, shaders })
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &LinearAttentionProblem {
        &self.problem
    }

    /// Tokens of a chunk. A sequence that is cut at multiples of this, each part going on from the
    /// state of the one before, gives the same bits as in one call.
    pub fn chunk(&self) -> u32 {
        self.tile.block()
    }

    /// The shaders as they will be compiled: random features of q and k (if any), sums, scan,
    /// outputs.
    pub fn shaders(&self) -> &[Shader] {
        &self.shaders
    }

    /// Chunks of the keys.
    pub(crate) fn chunks(&self, shape: &LinearAttentionShape) -> u32 {
        shape.seq_k.div_ceil(self.chunk())
    }

    /// Tiles of the queries.
    pub(crate) fn tiles(&self, shape: &LinearAttentionShape) -> u32 {
        shape.seq_q.div_ceil(self.chunk())
    }

    /// Entries of the uniform table of output heads.
    pub(crate) fn head_slots(&self) -> usize {
        shader::head_slots(&self.problem) as usize
    }

    /// Elements of the state of one kv head of one batch: S and z.
    fn state_elements(&self) -> u64 {
        let p = &self.problem;
        u64::from(p.feature_dim()) * (u64::from(p.value_dim) + 1)
    }

    /// Bytes of the workspace that the caller binds: a state for every chunk and one more, f32
    /// `[B, H_kv, chunks + 1, F (D_v + 1)]`. Proportional to the sequence.
    pub fn workspace_bytes(&self, shape: &LinearAttentionShape) -> u64 {
        let n = |x: u32| Saturating(u64::from(x));
        let planes = n(shape.batch) * n(self.problem.kv_heads);
        let states = n(self.chunks(shape)) + Saturating(1);
        (Saturating(4) * planes * states * Saturating(self.state_elements())).0
    }

    /// Bytes of the buffer that the caller binds for random features, those of the queries and
    /// behind them those of the keys; 0 for other feature maps.
    pub fn features_bytes(&self, shape: &LinearAttentionShape) -> u64 {
        let [q, k] = self.features_parts(shape);
        self.keys_at(q).saturating_add(k)
    }

    /// Byte at which the features of the keys begin, behind `q` bytes of those of the queries.
    pub(crate) fn keys_at(&self, q: u64) -> u64 {
        let alignment = u64::from(self.capabilities.storage_alignment.max(4));
        q.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
    }

    pub(crate) fn features_parts(&self, shape: &LinearAttentionShape) -> [u64; 2] {
        let p = &self.problem;
        if !p.is_favor() {
            return [0; 2];
        }
        let n = |x: u32| Saturating(u64::from(x));
        let row = Saturating(4) * n(shape.batch) * n(p.feature_dim());
        let rows = [(p.heads.q_heads(), shape.seq_q), (p.kv_heads, shape.seq_k)];
        rows.map(|(heads, seq)| (row * n(heads) * n(seq)).0)
    }

    /// Workgroups of every pass, in the order of [`LinearAttentionPlan::shaders`].
    pub(crate) fn groups(&self, shape: &LinearAttentionShape) -> Vec<u64> {
        let p = &self.problem;
        let n = |x: u32| Saturating(u64::from(x));
        let blocks = |dim: u32| n(dim.div_ceil(self.tile.block()));
        let (batch, values) = (n(shape.batch), blocks(p.value_dim));
        let kv = batch * n(p.kv_heads);
        let mut groups = Vec::new();
        if p.is_favor() {
            let tiles = |seq: u32| n(seq.div_ceil(shader::FAVOR_ROWS));
            groups.push(batch * n(p.heads.q_heads()) * tiles(shape.seq_q));
            groups.push(kv * tiles(shape.seq_k));
        }
        groups.push(kv * n(self.chunks(shape)) * blocks(p.feature_dim()) * values);
        let states = kv * Saturating(self.state_elements() / 4);
        groups.push(Saturating(states.0.div_ceil(u64::from(shader::WORKGROUP))));
        let heads_out = Saturating(p.heads.heads().len() as u64);
        groups.push(batch * heads_out * n(self.tiles(shape)) * values);
        groups.into_iter().map(|groups| groups.0).collect()
    }

    pub(crate) fn favor_tiles(seq: u32) -> u32 {
        seq.div_ceil(shader::FAVOR_ROWS)
    }

    /// What a call of this plan does for one set of sizes.
    pub fn cost(&self, shape: &LinearAttentionShape) -> Cost {
        let p = &self.problem;
        let n = |x: u32| Saturating(u64::from(x));
        let (one, two) = (Saturating(1), Saturating(2));
        let size = |dtype: DType| Saturating(dtype.size());
        let (f, dv, d, chunk) =
            (n(p.feature_dim()), n(p.value_dim), n(p.head_dim), n(self.chunk()));
        let q_rows = n(shape.batch) * n(shape.seq_q);
        let k_rows = n(shape.batch) * n(p.kv_heads) * n(shape.seq_k);
        let heads_out = Saturating(p.heads.heads().len() as u64);
        let within = if p.causal { chunk * (two * f + dv) } else { Saturating(0) };
        let state = f * (dv + one);
        let mut flops = two * (q_rows * heads_out * (state + within) + k_rows * state);
        if p.is_favor() {
            flops += two * d * f * (q_rows * n(p.heads.q_heads()) + k_rows);
        }
        let kept = if p.state { two } else { Saturating(0) };
        let state = kept * n(p.kv_heads) * Saturating(self.state_elements());
        let groups = self.groups(shape);
        Cost {
            dispatches: groups.iter().filter(|&&groups| groups > 0).count() as u32,
            workgroups: groups.iter().fold(0, |sum: u64, &n| sum.saturating_add(n)),
            flops: flops.0,
            bytes: (q_rows * n(p.heads.q_heads()) * d * size(p.q_dtype)
                + k_rows * (d + dv) * size(p.kv_dtype)
                + q_rows * heads_out * dv * size(p.out_dtype)
                + Saturating(4) * n(shape.batch) * state)
                .0,
            bytes_requested: None,
        }
    }
}

impl core::fmt::Display for LinearAttentionPlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem;
        let map = match &p.feature_map {
            FeatureMap::EluPlusOne => "elu + 1",
            FeatureMap::Custom(_) => "the caller's feature map",
            FeatureMap::Favor { .. } => "FAVOR+",
        };
        writeln!(
            f,
            "linear attention: {} query heads, {} kv heads, {} output heads, D {}, F {}, D_v {}, {}, {map}",
            p.heads.q_heads(),
            p.kv_heads,
            p.heads.heads().len(),
            p.head_dim,
            p.feature_dim(),
            p.value_dim,
            if p.causal { "causal" } else { "full" },
        )?;
        writeln!(
            f,
            "  path: {} passes, chunks of {} tokens, {} features rotate, state {}, storage q {} kv {} out {}, arithmetic f32",
            self.shaders.len(),
            self.chunk(),
            p.rotary_dim,
            if p.state { "bound" } else { "none" },
            p.q_dtype,
            p.kv_dtype,
            p.out_dtype,
        )?;
        write!(
            f,
            "  {} invocations, {} bytes of workgroup memory, {} storage buffers, workspace {} bytes a chunk and kv head",
            self.tile.threads(),
            self.shaders.iter().map(|shader| shader.workgroup_bytes).max().unwrap_or(0),
            self.shaders.iter().map(|shader| shader.storage_buffers).max().unwrap_or(0),
            4 * self.state_elements(),
        )?;
        self.capabilities.sharing.describe(f, &self.shaders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;

    #[test]
    fn work_and_memory_are_linear_in_the_sequence() {
        let problem = LinearAttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 64);
        let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
        let [short, long] = [4096, 32768].map(|seq| LinearAttentionShape::new(1, seq));
        assert_eq!(plan.cost(&long).flops, 8 * plan.cost(&short).flops);
        assert!(plan.workspace_bytes(&long) < 8 * plan.workspace_bytes(&short));
    }

    #[test]
    fn what_no_plan_fits_is_refused() {
        let good = LinearAttentionProblem::new(HeadMap::plain(4).unwrap(), 2, 32);
        let favor = |features, key_offset| FeatureMap::Favor { features, key_offset };
        let plan = |p: &LinearAttentionProblem| p.plan(&Capabilities::webgpu_default());
        assert!(plan(&good).is_ok());
        for bad in [
            LinearAttentionProblem { head_dim: 6, ..good.clone() },
            LinearAttentionProblem { value_dim: 260, ..good.clone() },
            LinearAttentionProblem { kv_heads: 3, ..good.clone() },
            LinearAttentionProblem { rotary_dim: 34, ..good.clone() },
            LinearAttentionProblem { rotary_dim: 7, ..good.clone() },
            LinearAttentionProblem { feature_map: favor(0, 0.0), ..good.clone() },
            LinearAttentionProblem { feature_map: favor(64, f32::NAN), ..good.clone() },
            LinearAttentionProblem {
                rotary_dim: 0,
                heads: HeadMap::ropepp(4).unwrap(),
                ..good.clone()
            },
        ] {
            assert!(plan(&bad).is_err(), "{bad:?}");
        }
    }
}
