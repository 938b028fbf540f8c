//! The tile: how a workgroup is cut into invocations, queries and keys.

mod table;

use super::AttentionProblem;
use super::matrix_tile::MatrixTile;
use super::memory::Memory;
use crate::plan::head_rows::HeadRows;
use crate::plan::{Capabilities, Precision, Suspect};
use crate::{Error, Result};
use table::Row;

/// Sizes of one workgroup's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tile {
    /// Queries, keys and values are staged in workgroup memory, for all invocations.
    Blocked(BlockedTile),
    /// A workgroup is one subgroup, whose invocations pass keys and values round by shuffles.
    Shuffled(ShuffledTile),
    /// Products run on matrix units.
    Matrices(MatrixTile),
}

/// A tile in workgroup memory: `tx · ty` invocations; a row of `tx` shares its queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockedTile {
    /// Invocations along keys (in Q·Kᵀ) and along channels of V (in P·V).
    pub tx: u32,
    /// Invocations along queries.
    pub ty: u32,
    /// Pairs of queries an invocation.
    pub row_pairs: u32,
    /// Groups of four keys an invocation.
    pub key_quads: u32,
    /// Groups of eight channels of q and k that are staged at once.
    pub chunk_units: u32,
    /// Whether the whole query tile stays in workgroup memory; otherwise it is staged in chunks,
    /// again for every key tile.
    pub q_resident: bool,
    /// Key quads of V that are staged at once; divides `key_quads · tx`.
    pub v_quads: u32,
    /// Whether P and V have workgroup memory of their own, or lie over K.
    pub pv_apart: bool,
}

/// A tile of one subgroup, each of whose invocations owns queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShuffledTile {
    /// Invocations: the size that every subgroup of the device has. Divides the keys of a step.
    pub lanes: u32,
    /// Pairs of queries an invocation.
    pub row_pairs: u32,
    /// Groups of four keys of a step.
    pub key_quads: u32,
}

impl From<BlockedTile> for Tile {
    fn from(tile: BlockedTile) -> Self {
        Self::Blocked(tile)
    }
}

impl From<MatrixTile> for Tile {
    fn from(tile: MatrixTile) -> Self {
        Self::Matrices(tile)
    }
}

impl From<ShuffledTile> for Tile {
    fn from(tile: ShuffledTile) -> Self {
        Self::Shuffled(tile)
    }
}

impl BlockedTile {
    /// Groups of four channels of V that an invocation accumulates.
    pub(super) const fn cols(&self, value_dim: u32) -> u32 {
        (value_dim / 4).div_ceil(self.tx)
    }

    pub(super) fn check(&self, problem: &AttentionProblem) -> Result<()> {
        let parts = [self.tx, self.ty, self.row_pairs, self.key_quads, self.chunk_units];
        let invalid =
            |needed| Err(Error::Invalid { what: "tile", needed, got: format!("{self:?}") });
        if parts.contains(&0) || self.v_quads == 0 {
            return invalid("made of parts above 0");
        }
        if parts.iter().any(|&part| part > 1024) {
            return invalid("made of parts up to 1024");
        }
        if !(self.key_quads * self.tx).is_multiple_of(self.v_quads) {
            return invalid("such that v_quads divides key_quads * tx");
        }
        if self.chunk_units > problem.head_dim / 8 + 1 {
            return invalid("such that chunk_units <= head_dim / 8 + 1");
        }
        Ok(())
    }

    /// What asks for the least workgroup memory, in ever thriftier forms.
    fn thrifty(problem: &AttentionProblem) -> impl Iterator<Item = Self> + use<> {
        let units = problem.channels().units();
        let shapes = [(8, 8), (16, 4), (16, 2), (8, 4)].map(|(tx, ty)| Self {
            tx,
            ty,
            row_pairs: 1,
            key_quads: 1,
            chunk_units: units,
            q_resident: true,
            v_quads: tx,
            pv_apart: false,
        });
        shapes.into_iter().flat_map(move |tile| tile.thriftier(units))
    }

    /// This tile, and the same with less and less workgroup memory.
    fn thriftier(self, units: u32) -> impl Iterator<Item = Self> {
        let halves =
            |n: u32| core::iter::successors(Some(n), |&n| (n > 1).then_some(n.div_ceil(2)));
        let quads = move || {
            core::iter::successors(Some(self.v_quads), |&n| n.is_multiple_of(2).then_some(n / 2))
        };
        [true, false].into_iter().flat_map(move |q_resident| {
            halves(units).flat_map(move |chunk_units| {
                quads().map(move |v_quads| Self { chunk_units, v_quads, q_resident, ..self })
            })
        })
    }
}

impl ShuffledTile {
    fn check(&self) -> Result<()> {
        let parts = [self.lanes, self.row_pairs, self.key_quads];
        let fit = parts.iter().all(|part| (1..=1024).contains(part))
            && (4 * self.key_quads).is_multiple_of(self.lanes);
        if fit {
            return Ok(());
        }
        let needed = "made of parts from 1 to 1024, of which the lanes divide the keys";
        Err(Error::Invalid { what: "tile", needed, got: format!("{self:?}") })
    }

    /// For software adapters that have subgroups. Timed on lavapipe 25.0.7 (subgroups of 8): twice
    /// the rows at once gain an eighth with one stream and lose a third with two, and take a third
    /// longer to compile.
    fn of(caps: &Capabilities) -> Option<Self> {
        let (lanes, most) = caps.subgroup?;
        let tile = Self { lanes, row_pairs: 1, key_quads: 4 };
        (caps.software && lanes == most && tile.check().is_ok()).then_some(tile)
    }
}

impl Tile {
    /// Invocations along keys and along queries, pairs of queries and groups of four keys of each;
    /// on matrix units, where no invocation owns any, lanes and subgroups.
    pub(super) const fn grid(&self) -> [u32; 4] {
        match self {
            Self::Blocked(tile) => [tile.tx, tile.ty, tile.row_pairs, tile.key_quads],
            Self::Shuffled(tile) => [1, tile.lanes, tile.row_pairs, tile.key_quads],
            Self::Matrices(tile) => [tile.lanes, tile.subgroups, 0, 0],
        }
    }

    /// Queries of a workgroup.
    pub const fn block_q(&self) -> u32 {
        match self {
            Self::Matrices(tile) => tile.block_q(),
            _ => {
                let [_, ty, row_pairs, _] = self.grid();
                2 * row_pairs * ty
            }
        }
    }

    /// Keys of a step.
    pub const fn block_k(&self) -> u32 {
        match self {
            Self::Matrices(tile) => tile.block_k,
            _ => {
                let [tx, _, _, key_quads] = self.grid();
                4 * key_quads * tx
            }
        }
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        let [tx, ty, _, _] = self.grid();
        tx * ty
    }

    /// Groups of four channels of V that an invocation accumulates.
    pub(super) const fn cols(&self, value_dim: u32) -> u32 {
        let [tx, ..] = self.grid();
        (value_dim / 4).div_ceil(tx)
    }

    /// The size that every subgroup must have, where it matters.
    pub(super) const fn subgroup(&self) -> Option<u32> {
        match self {
            Self::Blocked(_) | Self::Matrices(_) => None,
            Self::Shuffled(tile) => Some(tile.lanes),
        }
    }

    pub(super) fn check(&self, problem: &AttentionProblem) -> Result<()> {
        let precision = self.matrices().map_or(Precision::F32, |tile| tile.precision);
        if precision != problem.precision {
            let needed = "of the problem's precision; of matrices where that is not F32";
            return Err(Error::Invalid { what: "tile", needed, got: self.to_string() });
        }
        match self {
            Self::Blocked(tile) => tile.check(problem),
            Self::Shuffled(tile) => tile.check(),
            Self::Matrices(tile) => tile.check(),
        }
    }

    /// As it is, where it is one on matrix units.
    pub const fn matrices(&self) -> Option<MatrixTile> {
        match self {
            Self::Matrices(tile) => Some(*tile),
            Self::Blocked(_) | Self::Shuffled(_) => None,
        }
    }

    /// The first [preferred tile](Tile::preferred) that is not quarantined.
    pub(super) fn choose(
        problem: &AttentionProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
    ) -> Result<Self> {
        if problem.precision.on_matrices() {
            return MatrixTile::choose(problem, head_rows.streams, caps);
        }
        let candidates = || Self::preferred(problem, head_rows, caps);
        let allowed = |tile: &Tile| caps.allow(Suspect::Tile(*tile));
        if let Some(tile) = candidates().find(|tile| allowed(tile).is_ok()) {
            return Ok(tile);
        }
        if let Some(first) = candidates().next() {
            // All of them are quarantined: the reason of the best one stands for the rest.
            allowed(&first)?;
        }
        let least = BlockedTile::thrifty(problem)
            .map(|tile| Memory::bytes(problem, head_rows, &tile.into()))
            .min();
        Err(Error::Limit {
            limit: "max_compute_workgroup_storage_size",
            what: "the smallest attention tile",
            needed: u64::from(least.unwrap_or(u32::MAX)),
            available: u64::from(caps.max_workgroup_bytes),
        })
    }

    /// What the device has room for, best first: shuffled tiles on software adapters, rows of the
    /// table, then the shapes that ask for the least, in ever thriftier forms.
    pub(super) fn preferred(
        problem: &AttentionProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
    ) -> impl Iterator<Item = Self> {
        let units = problem.channels().units();
        let table = Row::of(problem, head_rows, caps)
            .map(move |row| row.tile(units))
            .filter(|tile| tile.check(problem).is_ok());
        let blocked = table.chain(BlockedTile::thrifty(problem)).map(Self::Blocked);
        ShuffledTile::of(caps).map(Self::Shuffled).into_iter().chain(blocked).filter(|tile| {
            tile.threads() <= caps.max_invocations.min(caps.max_workgroup_size)
                && Memory::bytes(problem, head_rows, tile) <= caps.max_workgroup_bytes
        })
    }
}

impl core::fmt::Display for Tile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [tx, ty, row_pairs, key_quads] = self.grid();
        let (rows, keys) = (2 * row_pairs, 4 * key_quads);
        write!(f, "{} queries x {} keys, ", self.block_q(), self.block_k())?;
        match self {
            Self::Matrices(tile) => tile.fmt(f),
            Self::Shuffled(_) => write!(
                f,
                "a subgroup of {ty} invocations of {rows} queries, keys and values shuffled"
            ),
            Self::Blocked(tile) => write!(
                f,
                "{tx} x {ty} invocations of {rows} x {keys} scores, {} channels of k and {} keys of v \
                 staged at once{}{}",
                8 * tile.chunk_units,
                4 * tile.v_quads,
                if tile.q_resident { "" } else { ", q re-staged" },
                if tile.pv_apart { "" } else { ", v over k" },
            ),
        }
    }
}
