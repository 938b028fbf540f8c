//! Planning a fused attention call: problem, tile, workgroup memory, cost.

mod candidates;
mod cost;
mod cut;
mod matrix_shader;
mod matrix_tile;
mod memory;
mod order;
mod problem;
mod shader;
mod tile;

pub use cost::AttentionShape;
pub use cut::{Cut, CutPart};
pub use matrix_tile::MatrixTile;
pub use problem::{Alignment, AttentionProblem, Keys, Outputs, Queries};
pub use tile::{BlockedTile, ShuffledTile, Tile};

use crate::Result;
use crate::plan::cache::CacheFormat;
use crate::plan::head_rows::HeadRows;
use crate::plan::{Capabilities, Cost, KernelKind, Quarantine, Shader, Suspect};
pub(crate) use shader::Bound;

/// How one [`AttentionProblem`] will run: the path, the tile and the shader. Pure data; printing
/// it says everything that was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionPlan {
    pub(crate) problem: AttentionProblem,
    pub(crate) capabilities: Capabilities,
    pub(crate) head_rows: HeadRows,
    pub(crate) tile: Tile,
    pub(crate) bound: Bound,
    pub(crate) shader: Shader,
}

impl AttentionPlan {
    /// Plans with the tile that suits `capabilities`.
    pub(super) fn new(problem: &AttentionProblem, capabilities: &Capabilities) -> Result<Self> {
        problem.check()?;
        let head_rows = problem.head_rows();
        let tile = Tile::choose(problem, &head_rows, capabilities)?;
        Self::with_parts(problem, capabilities, head_rows, tile)
    }

    /// Plans with a tile of the caller's choice, as tuners and tests do. Results differ between
    /// tiles by rounding only.
    ///
    /// # Errors
    /// As [`AttentionProblem::plan`]; [`Error::Invalid`](crate::Error::Invalid) for a tile whose
    /// parts do not divide each other, [`Error::Limit`](crate::Error::Limit) for one that the
    /// device has no room for.
    pub fn with_tile(
        problem: &AttentionProblem,
        capabilities: &Capabilities,
        tile: impl Into<Tile>,
    ) -> Result<Self> {
        problem.check()?;
        Self::with_parts(problem, capabilities, problem.head_rows(), tile.into())
    }

    fn with_parts(
        problem: &AttentionProblem,
        capabilities: &Capabilities,
        head_rows: HeadRows,
        tile: Tile,
    ) -> Result<Self> {
        tile.check(problem)?;
        if let Tile::Matrices(matrix) = &tile {
            MatrixTile::admit(problem)?;
            matrix.allow(capabilities)?;
            capabilities.allow_matrices(tile)?;
        }
        capabilities.allow_stored(KernelKind::Attention, problem.stored())?;
        capabilities.allow(Suspect::Tile(tile))?;
        let bound = Bound::new(problem, capabilities.max_storage_buffers);
        let shader = shader::shader(problem, &head_rows, &tile, bound).shared(capabilities.sharing);
        capabilities.admit(&shader)?;
        Ok(Self {
            problem: problem.clone(),
            capabilities: capabilities.clone(),
            head_rows,
            tile,
            bound,
            shader,
        })
    }

    /// The problem that this plan solves.
    pub fn problem(&self) -> &AttentionProblem {
        &self.problem
    }

    /// The tile.
    pub fn tile(&self) -> &Tile {
        &self.tile
    }

    /// The shader with its constants, as it will be compiled.
    pub fn shader(&self) -> &Shader {
        &self.shader
    }

    /// Whether the lengths and tables of a call (`kv_lens`, `cu_seqlens_q`, `cu_seqlens_k`,
    /// `block_table`, `prefix_lens`, `block_list`) must be ranges of one buffer, since the device
    /// binds too few for all.
    pub fn one_buffer_of_lists(&self) -> bool {
        self.bound.lists
    }

    /// Tiles that would suit the device better, and were left out because it gets them wrong.
    pub fn left_out(&self) -> Vec<&Quarantine> {
        let (problem, caps) = (&self.problem, &self.capabilities);
        let preferred: Box<dyn Iterator<Item = Tile>> = match self.tile.matrices() {
            None => Box::new(Tile::preferred(problem, &self.head_rows, caps)),
            Some(_) => {
                let tiles = MatrixTile::preferred(problem, self.head_rows.streams, caps);
                Box::new(tiles.into_iter().flatten().map(Tile::Matrices))
            }
        };
        preferred
            .take_while(|tile| *tile != self.tile)
            .filter_map(|tile| caps.quarantine(Suspect::Tile(tile)))
            .collect()
    }

    /// Softmax streams that one pass over K and V feeds: 2 where a query head has a real and an
    /// imaginary output, 1 otherwise, and on matrix units with more than 128 channels.
    pub fn streams(&self) -> u32 {
        self.head_rows.streams
    }

    /// What a call of this plan does for one set of sizes.
    pub fn cost(&self, shape: &AttentionShape) -> Cost {
        cost::cost(self, shape)
    }
}

impl core::fmt::Display for AttentionPlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let p = &self.problem;
        let [q, k, v, out] = p.stored();
        writeln!(
            f,
            "attention: {} query heads, {} kv heads, {} output heads, D {}, D_v {}, {}",
            p.heads.q_heads(),
            p.kv_heads,
            p.heads.heads().len(),
            p.head_dim,
            p.value_dim,
            p.rules(),
        )?;
        writeln!(
            f,
            "  path: tiled, {} stream{} a pass, {}, query {}, storage q {} k {} v {} out {}, arithmetic {}{}",
            self.head_rows.streams,
            if self.head_rows.streams == 1 { "" } else { "s" },
            match p.keys {
                Keys::Batched => "keys in a tensor",
                Keys::Ragged => "ragged keys",
                Keys::Cache(CacheFormat { paged: false, rolling: false, .. }) => "contiguous cache",
                Keys::Cache(CacheFormat { paged: true, rolling: false, .. }) => "paged cache",
                Keys::Cache(CacheFormat { paged: false, rolling: true, .. }) => "rolling cache",
                Keys::Cache(CacheFormat { paged: true, rolling: true, .. }) =>
                    "rolling cache of pages",
            },
            if p.rotate_q { "rotated in the kernel" } else { "rotated before" },
            q,
            k,
            v,
            out,
            p.precision,
            if p.resumable { ", resumable between key tiles" } else { "" },
        )?;
        writeln!(f, "  tile: {}", self.tile)?;
        for quarantine in self.left_out() {
            writeln!(f, "  left out: {quarantine}")?;
        }
        write!(
            f,
            "  {} invocations, {} bytes of workgroup memory, {} storage buffers{}",
            self.shader.workgroup_size,
            self.shader.workgroup_bytes,
            self.shader.storage_buffers,
            if self.bound.lists { ", one for all lengths and tables" } else { "" },
        )?;
        self.capabilities.sharing.describe(f, [&self.shader])
    }
}
