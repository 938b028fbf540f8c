//! Planning the backward pass of attention: problem, tiles, workgroup memory, workspace, cost.
//!
//! Two large passes, so that nothing is added up across workgroups: queries own dQ, keys own dK and
//! dV and walk over all query heads of their group. Two small ones before them leave in the
//! workspace what both read.

mod cut;
mod memory;
mod problem;
mod shader;
mod tile;

use core::num::Saturating;

pub(crate) use cut::Part;
pub use problem::AttentionBackwardProblem;
pub(crate) use shader::WORKGROUP;
pub(crate) use tile::Side;
pub use tile::{BlockedTile, ShuffledTile, Tile};

use crate::Result;
use crate::plan::attention::AttentionShape;
use crate::plan::head_rows::HeadRows;
use crate::plan::{Capabilities, Cost, KernelKind, Shader};

/// How an [`AttentionBackwardProblem`] will run. Pure data; printing it says everything that was
/// decided.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionBackwardPlan {
    pub(crate) problem: AttentionBackwardProblem,
    pub(crate) capabilities: Capabilities,
    pub(crate) head_rows: HeadRows,
    tiles: [Tile; 2],
    shaders: Vec<Shader>,
}

/// Where the workspace holds what, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workspace {
    pub(crate) rows_at: u64,
    pub(crate) q_places_at: u64,
    pub(crate) k_places_at: u64,
    pub(crate) len: u64,
}

impl AttentionBackwardPlan {
    fn new(problem: &AttentionBackwardProblem, caps: &Capabilities) -> Result<Self> {
        problem.check()?;
        let head_rows = problem.attention.head_rows();
        let choose = |side| Tile::choose(problem, &head_rows, caps, side);
        let tiles = [choose(Side::Queries)?, choose(Side::Keys)?];
        Self::with_parts(problem, caps, head_rows, tiles)
    }

    /// Plans with tiles of the caller's choice for dQ and for dK and dV, as tuners and tests do.
    /// Results differ between tiles by rounding only.
    ///
    /// # Errors
    /// As [`AttentionBackwardProblem::plan`]; [`Error::Invalid`](crate::Error::Invalid) for a tile
    /// whose parts do not divide each other, [`Error::Limit`](crate::Error::Limit) for one that the
    /// device has no room for.
    pub fn with_tiles(
        problem: &AttentionBackwardProblem,
        capabilities: &Capabilities,
        tiles: [Tile; 2],
    ) -> Result<Self> {
        problem.check()?;
        Self::with_parts(problem, capabilities, problem.attention.head_rows(), tiles)
    }

    /// The tiles that a tuner should try on a device, for dQ and for dK and dV, the default one
    /// first. All of them are legal.
    ///
    /// # Errors
    /// As [`AttentionBackwardProblem::plan`].
    pub fn candidates(
        problem: &AttentionBackwardProblem,
        capabilities: &Capabilities,
    ) -> Result<[Vec<Tile>; 2]> {
        problem.check()?;
        let head_rows = problem.attention.head_rows();
        let of = |side| Tile::candidates(problem, &head_rows, capabilities, side);
        Ok([of(Side::Queries)?, of(Side::Keys)?])
    }

    fn with_parts(
        problem: &AttentionBackwardProblem,
        caps: &Capabilities,
        head_rows: HeadRows,
        tiles: [Tile; 2],
    ) -> Result<Self> {
        let p = &problem.attention;
        tiles.iter().try_for_each(|tile| tile.check(problem))?;
        caps.allow_stored(KernelKind::AttentionBackward, [p.q_dtype, p.kv_dtype, p.out_dtype])?;
        let mut shaders =
            vec![shader::places(problem, &head_rows), shader::rows(problem, &head_rows)];
        if problem.d_sinks {
            shaders.push(shader::sinks(problem, &head_rows));
        }
        for (side, tile) in [Side::Queries, Side::Keys].into_iter().zip(&tiles) {
            shaders.push(shader::gradients(problem, &head_rows, tile, side));
        }
        let shaders: Vec<Shader> =
            shaders.into_iter().map(|shader| shader.shared(caps.sharing)).collect();
        shaders.iter().try_for_each(|shader| caps.admit(shader))?;
        Ok(Self { problem: problem.clone(), capabilities: caps.clone(), head_rows, tiles, shaders })
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &AttentionBackwardProblem {
        &self.problem
    }

    /// The tiles of dQ, and of dK and dV.
    pub fn tiles_of_passes(&self) -> [Tile; 2] {
        self.tiles
    }

    pub(crate) fn tile(&self, side: Side) -> &Tile {
        &self.tiles[side as usize]
    }

    /// The shaders of the passes, in the order in which they run: sequences and positions, rows,
    /// the sinks where they have a gradient, dQ, dK and dV.
    pub fn shaders(&self) -> &[Shader] {
        &self.shaders
    }

    /// Softmax streams of a pass: 2 where a query head has a real and an imaginary output.
    pub fn streams(&self) -> u32 {
        self.head_rows.streams
    }

    /// Where the workspace holds what, for `rows` rows of q over all batches.
    pub(crate) fn workspace(&self, shape: &AttentionShape, rows: u64) -> Workspace {
        let n = |x: u32| Saturating(u64::from(x));
        let streams = match self.problem.turns() {
            true => n(self.problem.position_streams),
            false => Saturating(0),
        };
        let heads_out = Saturating(self.problem.attention.heads.heads().len() as u64);
        let rows_at = Saturating(5) * n(shape.batch);
        let q_places_at = rows_at + Saturating(2) * heads_out * Saturating(rows);
        let k_places_at = q_places_at + streams * n(shape.batch) * n(shape.seq_q);
        let len = k_places_at + streams * n(shape.batch) * n(shape.seq_k);
        Workspace {
            rows_at: rows_at.0,
            q_places_at: q_places_at.0,
            k_places_at: k_places_at.0,
            len: len.0,
        }
    }

    /// Bytes of scratch memory that a call needs, where q has `rows` rows a head over all batches:
    /// `batch · seq_q`, or those of a ragged q. It grows with the rows, never with their square.
    pub fn workspace_bytes(&self, shape: &AttentionShape, rows: u32) -> u64 {
        self.workspace(shape, rows.into()).len.saturating_mul(4)
    }

    /// What a call of this plan does for one set of sizes: operations that the result needs,
    /// `8 D + 6 D_v` a visible pair of query and key and output head, since both large passes form
    /// S and dP; tensors, each once; and bytes that workgroups ask for.
    pub fn cost(&self, shape: &AttentionShape) -> Cost {
        let p = &self.problem.attention;
        let n = |x: u32| Saturating(u64::from(x));
        let (batch, d, dv) = (n(shape.batch), n(p.head_dim), n(p.value_dim));
        let heads_out = Saturating(p.heads.heads().len() as u64);
        let visible = batch * Saturating(shape.visible(p.causal));
        let size = |dtype: crate::DType| Saturating(dtype.size());
        let q_rows = batch * n(p.heads.q_heads()) * n(shape.seq_q);
        let kv_rows = batch * n(p.kv_heads) * n(shape.seq_k);
        let out_rows = batch * heads_out * n(shape.seq_q);
        let four = Saturating(4);
        let read = q_rows * d * size(p.q_dtype) + kv_rows * (d + dv) * size(p.kv_dtype);
        let written = q_rows * d * four + kv_rows * (d + dv) * four;
        let upstream = out_rows * (Saturating(2) * dv * size(p.out_dtype) + four);
        let head_rows = n(self.head_rows.len());
        let streams = n(self.head_rows.streams);
        let fetches = |side| {
            Saturating(visible.0.div_ceil(u64::from(self.tile(side).own_rows()))) * head_rows
        };
        let by_queries = fetches(Side::Queries) * (d + dv) * size(p.kv_dtype);
        let walked = d * size(p.q_dtype) + streams * dv * size(p.out_dtype);
        let by_keys = fetches(Side::Keys) * walked;
        let tiles = |side| n(self.tiles(shape, side));
        let heads = [(Side::Queries, p.heads.q_heads()), (Side::Keys, p.kv_heads)];
        let groups: Saturating<u64> = heads
            .into_iter()
            .map(|(side, heads)| batch * n(heads) * tiles(side))
            .fold(Saturating(0), |sum, groups| sum + groups);
        Cost {
            dispatches: self.shaders.len() as u32,
            workgroups: groups.0,
            flops: (visible * heads_out * (Saturating(8) * d + Saturating(6) * dv)).0,
            bytes: (read + written + upstream).0,
            bytes_requested: Some((read + written + upstream + by_queries + by_keys).0),
        }
    }
}

impl core::fmt::Display for AttentionBackwardPlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem.attention;
        writeln!(
            f,
            "attention backward: {} query heads, {} kv heads, {} output heads, D {}, D_v {}, {}, scale {:.6}",
            p.heads.q_heads(),
            p.kv_heads,
            p.heads.heads().len(),
            p.head_dim,
            p.value_dim,
            if p.causal { "causal" } else { "full" },
            p.softmax_scale,
        )?;
        let asked = [
            (self.problem.d_lse, ", for a loss of the log-sum-exp too"),
            (self.problem.d_sinks, ", of sinks"),
            (self.problem.d_bias, ", of the bias"),
        ];
        let more: String =
            asked.iter().filter(|(asked, _)| *asked).map(|(_, text)| *text).collect();
        writeln!(
            f,
            "  gradients of q, k, v in f32, with respect to {} vectors{more}; storage q {} kv {} out {}",
            if self.problem.unrotate { "un-rotated" } else { "rotated" },
            p.q_dtype,
            p.kv_dtype,
            p.out_dtype,
        )?;
        let labels = ["dq", "dk, dv"];
        for (n, (label, tile)) in labels.into_iter().zip(&self.tiles).enumerate() {
            let shader = &self.shaders[self.shaders.len() - 2 + n];
            writeln!(
                f,
                "  {label}: {} stream{} a pass, {tile}; {} bytes of workgroup memory, {} storage buffers",
                self.head_rows.streams,
                if self.head_rows.streams == 1 { "" } else { "s" },
                shader.workgroup_bytes,
                shader.storage_buffers,
            )?;
        }
        write!(f, "  {} dispatches, workspace linear in the rows", self.shaders.len())?;
        self.capabilities.sharing.describe(f, &self.shaders)
    }
}
