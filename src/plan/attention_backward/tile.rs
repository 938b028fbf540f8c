//! The tiles of the two large passes.

use super::AttentionBackwardProblem;
use crate::plan::Capabilities;
use crate::plan::head_rows::HeadRows;
use crate::{Error, Result};

/// Which rows the workgroups of a pass own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    /// Queries: dQ.
    Queries,
    /// Keys: dK and dV.
    Keys,
}

/// Sizes of one workgroup's work: `tx · ty` invocations own `2 row_pairs · ty` rows of one side and
/// walk over `4 col_quads · tx` rows of the other at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Invocations along walked rows, and along channels of the gradients.
    pub tx: u32,
    /// Invocations along own rows.
    pub ty: u32,
    /// Pairs of own rows an invocation.
    pub row_pairs: u32,
    /// Groups of four walked rows an invocation.
    pub col_quads: u32,
    /// Groups of eight channels that are staged at once.
    pub chunk_units: u32,
    /// Groups of four walked rows that are staged at once where weights are multiplied by them;
    /// divides `col_quads · tx`.
    pub y_quads: u32,
    /// A workgroup is one subgroup, whose invocations pass walked rows round by shuffles: `tx` is 1
    /// and `ty` the size that every subgroup of the device has. `chunk_units` and `y_quads` mean
    /// nothing then.
    pub shuffled: bool,
}

impl Tile {
    /// Rows that a workgroup owns.
    pub const fn own_rows(&self) -> u32 {
        2 * self.row_pairs * self.ty
    }

    /// Rows of the other side that it walks over at a time.
    pub const fn walked_rows(&self) -> u32 {
        4 * self.col_quads * self.tx
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.tx * self.ty
    }

    pub(super) fn check(&self, problem: &AttentionBackwardProblem) -> Result<()> {
        let parts = [self.tx, self.ty, self.row_pairs, self.col_quads, self.chunk_units];
        let invalid =
            |needed| Err(Error::Invalid { what: "tile", needed, got: format!("{self:?}") });
        if parts.iter().chain(&[self.y_quads]).any(|&part| part == 0 || part > 1024) {
            return invalid("made of parts from 1 to 1024");
        }
        if !(self.col_quads * self.tx).is_multiple_of(self.y_quads) {
            return invalid("such that y_quads divides col_quads * tx");
        }
        if self.shuffled && (self.tx != 1 || !self.walked_rows().is_multiple_of(self.ty)) {
            return invalid(
                "such that tx = 1 and ty divides the walked rows, where they are shuffled",
            );
        }
        if self.chunk_units > problem.attention.head_dim.max(problem.attention.value_dim) / 8 + 1 {
            return invalid("such that chunk_units is at most the channels / 8 + 1");
        }
        Ok(())
    }

    /// The best tile that the device has room for.
    pub(super) fn choose(
        problem: &AttentionBackwardProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
        side: Side,
    ) -> Result<Self> {
        let fits = |tile: &Tile| {
            tile.check(problem).is_ok()
                && tile.threads() <= caps.max_invocations.min(caps.max_workgroup_size)
                && Memory::new(problem, head_rows, tile, side).bytes() <= caps.max_workgroup_bytes
        };
        if let Some(tile) = Self::candidates(problem, caps).find(fits) {
            return Ok(tile);
        }
        let bytes = |tile: Tile| Memory::new(problem, head_rows, &tile, side).bytes();
        Err(Error::Limit {
            limit: "max_compute_workgroup_storage_size",
            what: "the smallest tile of the backward pass",
            needed: Self::candidates(problem, caps).map(bytes).min().unwrap_or(u32::MAX).into(),
            available: caps.max_workgroup_bytes.into(),
        })
    }

    /// Best first, each in thriftier and thriftier forms.
    fn candidates(
        problem: &AttentionBackwardProblem,
        caps: &Capabilities,
    ) -> impl Iterator<Item = Self> + use<> {
        let units = problem.channels().units().max(problem.attention.value_dim / 8);
        // Invocations along channels have one to four units of them.
        let shapes: &[(u32, u32)] = match (caps.software, units) {
            // No more than two units an invocation: software adapters unroll, and take long to
            // compile.
            (true, ..=8) => &[(4, 4), (4, 2)],
            (true, ..=16) => &[(8, 4), (4, 2)],
            (true, _) => &[(16, 4), (8, 4), (4, 2)],
            (false, ..=8) => &[(8, 32), (8, 16), (8, 8), (8, 4), (4, 4)],
            (false, ..=16) => {
                &[(8, 32), (16, 16), (8, 16), (16, 8), (8, 8), (16, 4), (8, 4), (4, 4)]
            }
            (false, _) => &[(16, 16), (16, 8), (16, 4), (8, 8), (8, 4), (4, 4)],
        };
        let tile = move |(tx, ty): (u32, u32), chunk: u32, y_quads: u32| Tile {
            tx,
            ty,
            row_pairs: 1,
            col_quads: 1,
            chunk_units: chunk.min(units),
            y_quads: y_quads.min(tx),
            shuffled: false,
        };
        let forms = [(8, 16), (4, 16), (4, 8), (4, 4), (2, 2), (1, 1)];
        let blocked = shapes.iter().flat_map(move |&shape| {
            forms.into_iter().map(move |(chunk, y_quads)| tile(shape, chunk, y_quads))
        });
        Self::shuffled(caps).into_iter().chain(blocked)
    }

    /// For software adapters that have subgroups.
    fn shuffled(caps: &Capabilities) -> Option<Self> {
        let (ty, most) = caps.subgroup?;
        let tile = Tile {
            tx: 1,
            ty,
            row_pairs: 1,
            col_quads: 4,
            chunk_units: 1,
            y_quads: 1,
            shuffled: true,
        };
        (caps.software && ty == most && tile.walked_rows().is_multiple_of(ty)).then_some(tile)
    }
}

impl core::fmt::Display for Tile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (own, walked) = (self.own_rows(), self.walked_rows());
        if self.shuffled {
            return write!(
                f,
                "{own} rows x {walked}, a subgroup of {} invocations of {} rows, the others shuffled",
                self.ty,
                2 * self.row_pairs,
            );
        }
        write!(
            f,
            "{own} rows x {walked}, {} x {} invocations of {} x {} scores, {} channels and {} rows staged at once",
            self.tx,
            self.ty,
            2 * self.row_pairs,
            4 * self.col_quads,
            8 * self.chunk_units,
            4 * self.y_quads,
        )
    }
}

/// Where the tiles lie in the workgroup array, in groups of four vectors and one that is never
/// used. Operands of the scores lie over weights and what they are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) r_pitch: u32,
    pub(super) c_at: u32,
    pub(super) values_at: u32,
    pub(super) w_groups: u32,
    pub(super) w_pitch: u32,
    pub(super) y_at: u32,
    pub(super) y_cols: u32,
    /// Units of dq or dk, and of dv, an invocation.
    pub(super) cols: u32,
    pub(super) value_cols: u32,
    pub(super) len: u32,
    /// Where rows are shuffled: vectors of the four arrays.
    vectors: Option<u32>,
}

impl Memory {
    pub(super) fn new(
        problem: &AttentionBackwardProblem,
        head_rows: &HeadRows,
        tile: &Tile,
        side: Side,
    ) -> Self {
        let streams = head_rows.streams;
        let (own_streams, walked_streams) = match side {
            Side::Queries => (streams, 1),
            Side::Keys => (1, streams),
        };
        let units = problem.channels().units();
        let value_units = problem.attention.value_dim / 8;
        let (cols, value_cols) = (units.div_ceil(tile.tx), value_units.div_ceil(tile.tx));
        let block_cq = tile.col_quads * tile.tx;
        // Odd, so that neighbouring units and quads are written to different banks.
        let r_pitch = (tile.row_pairs * tile.ty) | 1;
        let chunk = tile.chunk_units;
        let c_at = chunk * r_pitch;
        let values_at = own_streams * chunk * r_pitch;
        let scores = c_at + 2 * chunk * block_cq;
        let values = values_at + 2 * walked_streams * chunk * block_cq;
        let w_groups = (tile.row_pairs * streams).div_ceil(2);
        let w_pitch = (w_groups * tile.ty) | 1;
        let y_at = block_cq * w_pitch;
        let y_cols = tile.tx * if side == Side::Keys { cols.max(value_cols) } else { cols };
        let products = y_at + 2 * tile.y_quads * y_cols;
        let rows = tile.own_rows();
        let own_values = 2 * value_units * rows;
        let sums = if side == Side::Keys { own_values } else { 1 };
        let vectors = 4 * units * rows + own_streams * own_values + sums;
        Self {
            r_pitch,
            c_at,
            values_at,
            w_groups,
            w_pitch,
            y_at,
            y_cols,
            cols,
            value_cols,
            len: scores.max(values).max(products),
            vectors: tile.shuffled.then_some(vectors),
        }
    }

    pub(super) fn bytes(&self) -> u32 {
        16 * self.vectors.unwrap_or(5 * self.len)
    }
}
