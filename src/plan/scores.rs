//! Planning the kernels that show what attention does: raw scores of a window, and statistics of
//! every row.

use core::num::Saturating;
use core::ops::Range;

use crate::bits::eq_by_bits;
use crate::plan::rules::ScoreRules;
use crate::plan::shader::{Source, stored, wgsl};
use crate::plan::{Capabilities, Cost, KernelKind, Shader};
use crate::rotary::Pairing;
use crate::{DType, Error, Result};

/// How two components lie in one buffer of f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComponentOrder {
    /// `[B, heads, queries, keys, 2]`: real and imaginary part side by side, a complex number.
    Pairs,
    /// `[B, heads, 2, queries, keys]`: a plane of real parts, and one of imaginary parts.
    Planes,
}

/// What is written of the scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    /// `softmax_scale · S`; −∞ where the mask hides a key.
    Scores(ComponentOrder),
    /// `exp(softmax_scale · S − lse)`, 0 where the mask hides a key. Needs the log-sum-exp that an
    /// attention call over [`HeadMap::ropepp`](crate::HeadMap::ropepp) writes.
    Probabilities(ComponentOrder),
    /// One [`RowStatistics`](crate::scores::RowStatistics) for every row and component,
    /// from one pass over the keys.
    Statistics {
        /// Distance up to which probability counts as near, and past which as far, in tokens.
        distance: u32,
    },
}

/// Real and imaginary scores of rotated queries and keys, for analysis. Fill in what differs from
/// [`ScoresProblem::new`].
///
/// ```text
/// q [B, H_q, S_q, D]   k [B, H_kv, S_k, D]      S_re = Qa·Ka + Qb·Kb    S_im = Qb·Ka − Qa·Kb
/// ```
///
/// (RoPE++, arXiv 2512.07525, matrix form.) The un-rotated tail adds to S_re alone, as in
/// [`AttentionProblem`](crate::attention::AttentionProblem).
#[derive(Debug, Clone)]
pub struct ScoresProblem {
    /// Query heads of the tensor.
    pub q_heads: u32,
    /// Heads of K; divides the query heads.
    pub kv_heads: u32,
    /// The query heads that are computed, in the order in which they are written.
    pub heads: Vec<u32>,
    /// D, a multiple of 4 up to 256.
    pub head_dim: u32,
    /// Channels that rotated, even, at most D.
    pub rotary_dim: u32,
    /// Where the pairs lie; [`Pairing::InterleavedToHalf`] has left them half-split.
    pub pairing: Pairing,
    /// Whether query i sees only the keys up to `i + query_offset`.
    pub causal: bool,
    /// Factor on every score, finite.
    pub softmax_scale: f32,
    /// Storage of q.
    pub q_dtype: DType,
    /// Storage of k.
    pub k_dtype: DType,
    /// What is written.
    pub output: Output,
}

eq_by_bits! {
    ScoresProblem {
        q_heads, kv_heads, heads, head_dim, rotary_dim, pairing, causal, q_dtype, k_dtype,
        output;
        softmax_scale,
    }
}

impl ScoresProblem {
    /// Causal raw scores of all heads as planes, in f32 over all of D, scale `D^(−1/2)`,
    /// half-split.
    pub fn new(q_heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        Self {
            q_heads,
            kv_heads,
            heads: (0..q_heads).collect(),
            head_dim,
            rotary_dim: head_dim,
            pairing: Pairing::Half,
            causal: true,
            softmax_scale: f64::from(head_dim).powf(-0.5) as f32,
            q_dtype: DType::F32,
            k_dtype: DType::F32,
            output: Output::Scores(ComponentOrder::Planes),
        }
    }

    /// Decides how the problem runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits, [`Error::Limit`] where the device has too
    /// little room.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<ScoresPlan> {
        ScoresPlan::new(self, capabilities)
    }

    /// Whether rows are written, and not single scores.
    pub(crate) fn statistics(&self) -> bool {
        matches!(self.output, Output::Statistics { .. })
    }

    /// What is done to scores.
    fn rules(&self) -> ScoreRules<'static> {
        let heads = [self.q_heads, self.kv_heads, self.heads.len() as u32];
        ScoreRules::new(heads, self.softmax_scale, self.causal)
    }

    fn check(&self) -> Result<()> {
        let invalid = |what, needed, got: String| Err(Error::Invalid { what, needed, got });
        if self.head_dim == 0 || self.head_dim > 256 || !self.head_dim.is_multiple_of(4) {
            let got = self.head_dim.to_string();
            return invalid("head_dim", "a multiple of 4 from 4 to 256", got);
        }
        self.rules().check()?;
        if let Some(head) = self.heads.iter().find(|&&head| head >= self.q_heads) {
            return invalid("heads", "below q_heads", format!("{head} of {}", self.q_heads));
        }
        if self.heads.is_empty() {
            return invalid("heads", "at least one", "none".into());
        }
        if self.rotary_dim > self.head_dim {
            let got = format!("{} of {}", self.rotary_dim, self.head_dim);
            return invalid("rotary_dim", "at most head_dim", got);
        }
        self.pairing.check(self.rotary_dim)
    }
}

/// Sizes that change from call to call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScoresShape {
    /// B.
    pub batch: u32,
    /// S_q: queries of each batch.
    pub seq_q: u32,
    /// S_k: keys of each batch.
    pub seq_k: u32,
    /// Place of query 0 among the keys, for the mask and for distances. `None` aligns the last
    /// query with the last key, `S_k − S_q`.
    pub query_offset: Option<i32>,
    /// Rows that are computed.
    pub queries: Range<u32>,
    /// Keys that are computed; for statistics, all.
    pub keys: Range<u32>,
}

impl ScoresShape {
    /// All queries and all keys, the last query at the last key.
    pub fn new(batch: u32, seq_q: u32, seq_k: u32) -> Self {
        Self { batch, seq_q, seq_k, query_offset: None, queries: 0..seq_q, keys: 0..seq_k }
    }

    /// The offset in force.
    pub fn offset(&self) -> i64 {
        self.query_offset.map_or(i64::from(self.seq_k) - i64::from(self.seq_q), i64::from)
    }
}

/// How a [`ScoresProblem`] will run.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoresPlan {
    pub(crate) problem: ScoresProblem,
    pub(crate) capabilities: Capabilities,
    /// Rows of a tile, and its keys.
    pub(crate) block: u32,
    shader: Shader,
}

impl ScoresPlan {
    fn new(problem: &ScoresProblem, capabilities: &Capabilities) -> Result<Self> {
        problem.check()?;
        capabilities.allow_stored(KernelKind::Scores, [problem.q_dtype, problem.k_dtype])?;
        // Few invocations with much work where they run on a CPU, as for attention.
        let [tx, ty, rows, cols] = match capabilities.software {
            true => [4, 4, 8, 2],
            false => [16, 16, 4, 1],
        };
        let block = ty * rows;
        let shader = shader(problem, [tx, ty, rows, cols]).shared(capabilities.sharing);
        capabilities.admit(&shader)?;
        let (problem, capabilities) = (problem.clone(), capabilities.clone());
        Ok(Self { problem, capabilities, block, shader })
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &ScoresProblem {
        &self.problem
    }

    /// The shader, as it will be compiled.
    pub fn shader(&self) -> &Shader {
        &self.shader
    }

    /// Work of a call over the window of the shape: both components of every pair of query and key,
    /// the causal mask not looked at.
    pub fn cost(&self, shape: &ScoresShape) -> Cost {
        let p = &self.problem;
        let n = |x: usize| Saturating(x as u64);
        let (batch, heads, dim) =
            (n(shape.batch as usize), n(p.heads.len()), n(p.head_dim as usize));
        let (queries, keys) = (n(shape.queries.len()), n(shape.keys.len()));
        let q = batch * heads * queries * dim * Saturating(p.q_dtype.size());
        let k = batch * n(p.kv_heads as usize) * keys * dim * Saturating(p.k_dtype.size());
        let lse = match p.output {
            Output::Probabilities(_) => Saturating(8) * batch * heads * queries,
            _ => Saturating(0),
        };
        let bytes = q + k + lse + Saturating(self.output_bytes(shape));
        let flops = Saturating(4) * batch * heads * queries * keys * dim;
        Cost::single(self.groups(shape), flops.0, bytes.0)
    }

    /// Workgroups of a call.
    pub(crate) fn groups(&self, shape: &ScoresShape) -> u64 {
        let tiles = |window: &Range<u32>| (window.len() as u64).div_ceil(u64::from(self.block));
        let k_tiles = if self.problem.statistics() { 1 } else { tiles(&shape.keys) };
        let planes = u64::from(shape.batch).saturating_mul(self.problem.heads.len() as u64);
        planes.saturating_mul(tiles(&shape.queries)).saturating_mul(k_tiles)
    }

    /// Bytes that a call writes, which is what the output's binding has to hold.
    pub fn output_bytes(&self, shape: &ScoresShape) -> u64 {
        let rows = u64::from(shape.batch).saturating_mul(self.problem.heads.len() as u64);
        let rows = rows.saturating_mul(shape.queries.len() as u64);
        match self.problem.output {
            Output::Statistics { .. } => rows.saturating_mul(2 * ROW_BYTES),
            _ => rows.saturating_mul(2 * 4 * shape.keys.len() as u64),
        }
    }
}

impl core::fmt::Display for ScoresPlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem;
        write!(
            f,
            "scores: {} of {} query heads, {} kv heads, D {}, {}, {:?}\n  path: tiles of {} x {}, {} invocations, {} bytes of workgroup memory, workspace 0 bytes",
            p.heads.len(),
            p.q_heads,
            p.kv_heads,
            p.head_dim,
            p.rules(),
            p.output,
            self.block,
            self.block,
            self.shader.workgroup_size,
            self.shader.workgroup_bytes,
        )?;
        self.capabilities.sharing.describe(f, [&self.shader])
    }
}

/// Pairs of channels that are staged at once.
const STEP: u32 = 4;
/// `Row` and `Sums` of `shaders/scores/statistics.wgsl`: six numbers each.
const ROW_BYTES: u64 = 6 * 4;
const SUMS_BYTES: u32 = 6 * 4;

fn shader(problem: &ScoresProblem, tile: [u32; 4]) -> Shader {
    let ([tx, ty, rows, cols], statistics) = (tile, problem.statistics());
    let numbers = [
        ("HEAD_DIM", problem.head_dim),
        ("PAIRS", problem.rotary_dim / 2),
        ("BLOCK_PAIRS", problem.pairing.block_pairs(problem.rotary_dim)),
        ("TX", tx),
        ("TY", ty),
        ("ROWS", rows),
        ("COLS", cols),
        ("STEP", STEP),
    ];
    let flags = [("INTERLEAVED", problem.pairing.writes_interleaved())];
    let files = [
        stored!(problem.q_dtype, "io/q"),
        stored!(problem.k_dtype, "io/k"),
        wgsl!("softmax"),
        wgsl!("strides"),
        wgsl!("scores/tile"),
        if statistics { wgsl!("scores/statistics") } else { wgsl!("scores") },
    ];
    // Tiles of q and of k, of first and of second members, in vectors of four rows.
    let tiles = 16 * 2 * 2 * STEP * (ty * rows / 4);
    Shader {
        kernel: KernelKind::Scores,
        label: format!("scores D{} {}{}", problem.head_dim, problem.q_dtype, problem.k_dtype),
        source: Source::new().numbers(numbers).flags(flags).files(files),
        entry: if statistics { "statistics" } else { "scores" },
        overrides: vec![("WORKGROUP", f64::from(tx * ty))],
        workgroup_size: tx * ty,
        workgroup_bytes: tiles
            + if statistics { (SUMS_BYTES * tx * ty).next_multiple_of(16) } else { 0 },
        storage_buffers: if statistics { 4 } else { 5 },
        table_bytes: 0,
        subgroup: None,
        matrices: None,
    }
}
