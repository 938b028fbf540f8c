//! Planning the backward pass of linear attention: passes, workspace, cost.
//!
//! Nothing is added up across workgroups: queries own dq, keys own dk and dv and walk over the
//! output heads that read them. What lies behind a chunk comes to it as a state, as in the forward
//! pass.

mod problem;
mod shader;

use core::num::Saturating;

pub use problem::LinearAttentionBackwardProblem;

use crate::plan::linear_attention::{LinearAttentionShape, Tile, WORKGROUP, head_slots};
use crate::plan::{Capabilities, Cost, KernelKind, Shader};
use crate::{DType, Result};

/// A pass of a call, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    KeySums,
    KeyScan,
    KeyRunning,
    Rows,
    QuerySums,
    QueryScan,
    QueryRunning,
    Dq,
    Dk,
    Dv,
}

impl Pass {
    const ALL: [Self; 10] = [
        Self::KeySums,
        Self::KeyScan,
        Self::KeyRunning,
        Self::Rows,
        Self::QuerySums,
        Self::QueryScan,
        Self::QueryRunning,
        Self::Dq,
        Self::Dk,
        Self::Dv,
    ];

    /// Whether chunks are gone through from the last to the first.
    pub(crate) fn is_back(self) -> bool {
        matches!(self, Self::QueryScan | Self::QueryRunning)
    }

    /// Whether it reads or writes the gradient of the state, not the state.
    pub(crate) fn is_of_queries(self) -> bool {
        self.is_back() || matches!(self, Self::QuerySums | Self::Dk | Self::Dv)
    }

    fn name(self) -> &'static str {
        match self {
            Self::KeySums => "sums of keys",
            Self::KeyScan => "scan of keys",
            Self::KeyRunning => "z",
            Self::Rows => "rows",
            Self::QuerySums => "sums of queries",
            Self::QueryScan => "scan of queries",
            Self::QueryRunning => "y",
            Self::Dq => "dq",
            Self::Dk => "dk",
            Self::Dv => "dv",
        }
    }
}

/// Where the workspace holds what, in vectors of four numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workspace {
    /// States of the keys, and their gradients.
    pub(crate) states_at: [u64; 2],
    /// z at every key, and y; without a causal mask nothing.
    pub(crate) z_at: [u64; 2],
    pub(crate) rows_at: u64,
    pub(crate) len: u64,
}

/// How one [`LinearAttentionBackwardProblem`] will run.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearAttentionBackwardPlan {
    pub(crate) problem: LinearAttentionBackwardProblem,
    pub(crate) capabilities: Capabilities,
    tile: Tile,
    passes: Vec<Pass>,
    shaders: Vec<Shader>,
}

impl LinearAttentionBackwardPlan {
    fn new(problem: &LinearAttentionBackwardProblem, capabilities: &Capabilities) -> Result<Self> {
        problem.check()?;
        let p = &problem.attention;
        let stored = [p.q_dtype, p.kv_dtype, p.out_dtype];
        capabilities.allow_stored(KernelKind::LinearAttentionBackward, stored)?;
        let tile = Tile::of(capabilities);
        // Without a causal mask all rows read one state.
        let running = |pass: &Pass| matches!(pass, Pass::KeyRunning | Pass::QueryRunning);
        let passes: Vec<Pass> =
            Pass::ALL.into_iter().filter(|pass| p.causal || !running(pass)).collect();
        let shader = |&pass| shader::shader(p, &tile, pass).shared(capabilities.sharing);
        let shaders: Vec<Shader> = passes.iter().map(shader).collect();
        shaders.iter().try_for_each(|shader| capabilities.admit(shader))?;
        let (problem, capabilities) = (problem.clone(), capabilities.clone());
        Ok(Self { problem, capabilities, tile, passes, shaders })
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &LinearAttentionBackwardProblem {
        &self.problem
    }

    /// The shaders as they will be compiled: sums and scan of the keys, z at every key (if causal),
    /// rows, the same of the queries, dq, dk, dv.
    pub fn shaders(&self) -> &[Shader] {
        &self.shaders
    }

    /// Tokens of a chunk. A sequence that is cut at multiples of this, each part from the gradient
    /// that the part behind it left, gives the same bits as in one call.
    pub fn chunk(&self) -> u32 {
        self.tile.block()
    }

    pub(crate) fn passes(&self) -> &[Pass] {
        &self.passes
    }

    /// Entries of the uniform table of output heads.
    pub(crate) fn head_slots(&self) -> usize {
        head_slots(&self.problem.attention) as usize
    }

    /// Chunks of the keys, and of the queries.
    pub(crate) fn chunks(&self, shape: &LinearAttentionShape) -> [u32; 2] {
        [shape.seq_k, shape.seq_q].map(|seq| seq.div_ceil(self.chunk()))
    }

    /// Vectors of the state of one kv head of one batch.
    fn state_quads(&self) -> u64 {
        let p = &self.problem.attention;
        u64::from(p.feature_dim() / 4) * (u64::from(p.value_dim) + 1)
    }

    pub(crate) fn workspace(&self, shape: &LinearAttentionShape) -> Workspace {
        let p = &self.problem.attention;
        let n = |x: u32| Saturating(u64::from(x));
        let planes = n(shape.batch) * n(p.kv_heads);
        let states = self
            .chunks(shape)
            .map(|chunks| planes * (n(chunks) + Saturating(1)) * Saturating(self.state_quads()));
        let rows = if p.causal { planes * n(p.feature_dim() / 4) } else { Saturating(0) };
        let z_at = states[0] + states[1];
        let y_at = z_at + rows * n(shape.seq_k);
        let rows_at = y_at + rows * n(shape.seq_q);
        let heads_out = Saturating(p.heads.heads().len() as u64);
        let len = rows_at + n(shape.batch) * heads_out * n(shape.seq_q);
        Workspace {
            states_at: [0, states[0].0],
            z_at: [z_at.0, y_at.0],
            rows_at: rows_at.0,
            len: len.0,
        }
    }

    /// Bytes of scratch memory that a call needs: proportional to the sequence.
    pub fn workspace_bytes(&self, shape: &LinearAttentionShape) -> u64 {
        self.workspace(shape).len.saturating_mul(16)
    }

    /// Workgroups of a pass.
    pub(crate) fn groups(&self, shape: &LinearAttentionShape, pass: Pass) -> u64 {
        let p = &self.problem.attention;
        let n = |x: u32| Saturating(u64::from(x));
        let blocks = |dim: u32| n(dim.div_ceil(self.tile.block()));
        let small = |entries: Saturating<u64>| Saturating(entries.0.div_ceil(WORKGROUP.into()));
        let kv = n(shape.batch) * n(p.kv_heads);
        let [keys, queries] = self.chunks(shape).map(n);
        let (f, dv) = (p.feature_dim(), p.value_dim);
        let chunks = if pass.is_of_queries() { queries } else { keys };
        let groups = match pass {
            Pass::KeySums | Pass::QuerySums => kv * chunks * blocks(f) * blocks(dv),
            Pass::KeyScan | Pass::QueryScan => small(kv * Saturating(self.state_quads())),
            Pass::KeyRunning | Pass::QueryRunning => small(kv * chunks * n(f / 4)),
            Pass::Rows => {
                let heads_out = Saturating(p.heads.heads().len() as u64);
                small(n(shape.batch) * heads_out * n(shape.seq_q))
            }
            Pass::Dq => n(shape.batch) * n(p.heads.q_heads()) * queries * blocks(f),
            Pass::Dk => kv * keys * blocks(f),
            Pass::Dv => kv * keys * blocks(dv),
        };
        groups.0
    }

    /// What a call of this plan does for one set of sizes.
    pub fn cost(&self, shape: &LinearAttentionShape) -> Cost {
        let p = &self.problem.attention;
        let n = |x: u32| Saturating(u64::from(x));
        let size = |dtype: DType| Saturating(dtype.size());
        let (two, three, four) = (Saturating(2), Saturating(3), Saturating(4));
        let (f, d, dv, chunk) =
            (n(p.feature_dim()), n(p.head_dim), n(p.value_dim), n(self.chunk()));
        let heads_out = Saturating(p.heads.heads().len() as u64);
        let q_rows = n(shape.batch) * n(p.heads.q_heads()) * n(shape.seq_q);
        let out_rows = n(shape.batch) * heads_out * n(shape.seq_q);
        let k_rows = n(shape.batch) * n(p.kv_heads) * n(shape.seq_k);
        // Within a chunk, two products for each of the three gradients.
        let within = if p.causal { three * chunk * (f + dv) } else { Saturating(0) };
        // A query takes from the state and gives to its gradient; a key gives once and takes twice.
        let flops = two * (out_rows * (two * f * dv + within) + k_rows * three * f * dv);
        let read = q_rows * d * size(p.q_dtype)
            + k_rows * (d + dv) * size(p.kv_dtype)
            + two * out_rows * dv * size(p.out_dtype);
        let written = four * (q_rows * d + k_rows * (d + dv));
        let kept = if p.state { three } else { Saturating(0) };
        let state =
            kept * n(shape.batch) * n(p.kv_heads) * Saturating(16) * Saturating(self.state_quads());
        let groups: Vec<u64> = self.passes.iter().map(|&pass| self.groups(shape, pass)).collect();
        Cost {
            dispatches: groups.iter().filter(|&&groups| groups > 0).count() as u32,
            workgroups: groups.iter().fold(0, |sum: u64, &n| sum.saturating_add(n)),
            flops: flops.0,
            bytes: (read + written + state).0,
            bytes_requested: None,
        }
    }
}

impl core::fmt::Display for LinearAttentionBackwardPlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem.attention;
        writeln!(
            f,
            "linear attention backward: {} query heads, {} kv heads, {} output heads, D {}, D_v {}, {}",
            p.heads.q_heads(),
            p.kv_heads,
            p.heads.heads().len(),
            p.head_dim,
            p.value_dim,
            if p.causal { "causal" } else { "full" },
        )?;
        writeln!(
            f,
            "  gradients of q, k, v{} in f32; {} passes, chunks of {} tokens, {} features rotate, \
             storage q {} kv {} out {}",
            if p.state { " and the state" } else { "" },
            self.shaders.len(),
            self.chunk(),
            p.rotary_dim,
            p.q_dtype,
            p.kv_dtype,
            p.out_dtype,
        )?;
        write!(
            f,
            "  {} invocations, {} bytes of workgroup memory, {} storage buffers, workspace linear in \
             the rows",
            self.tile.threads(),
            self.shaders.iter().map(|shader| shader.workgroup_bytes).max().unwrap_or(0),
            self.shaders.iter().map(|shader| shader.storage_buffers).max().unwrap_or(0),
        )?;
        self.capabilities.sharing.describe(f, &self.shaders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;
    use crate::plan::linear_attention::{FeatureMap, LinearAttentionProblem};

    #[test]
    fn work_and_memory_are_linear_in_the_sequence() {
        let forward = LinearAttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64);
        let plan = LinearAttentionBackwardProblem::new(forward);
        let plan = plan.plan(&Capabilities::webgpu_default()).unwrap();
        let [short, long] = [4096, 32768].map(|seq| LinearAttentionShape::new(1, seq));
        assert_eq!(plan.cost(&long).flops, 8 * plan.cost(&short).flops);
        assert!(plan.workspace_bytes(&long) <= 8 * plan.workspace_bytes(&short));
    }

    #[test]
    fn maps_without_a_gradient_are_refused() {
        let forward = LinearAttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 64);
        let feature_map = FeatureMap::Favor { features: 64, key_offset: 0.0 };
        let problem =
            LinearAttentionBackwardProblem::new(LinearAttentionProblem { feature_map, ..forward });
        let refused = problem.plan(&Capabilities::webgpu_default()).unwrap_err().to_string();
        assert!(refused.contains("FAVOR+"), "{refused}");
    }
}
