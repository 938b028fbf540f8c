//! The tiles of the two large passes.

use super::AttentionBackwardProblem;
use super::memory::{Memory, cols};
use crate::plan::Capabilities;
use crate::plan::head_rows::HeadRows;
use crate::{Error, Result};

/// Vendors whose devices have 192 registers an invocation or more: AMD, NVIDIA, Qualcomm. Intel's
/// and Apple's have 128, and of the others nothing is known.
const MANY_REGISTERS: [u32; 3] = [0x1002, 0x10de, 0x5143];

/// Invocations along walked rows and along own rows, of tiles that a tuner tries.
const SHAPES: [(u32, u32); 10] =
    [(8, 32), (16, 16), (8, 16), (16, 8), (32, 8), (8, 8), (16, 4), (32, 4), (8, 4), (4, 4)];

/// Registers that an invocation may spend on weights and gradients; beyond it every known compiler
/// spills.
const MOST_REGISTERS: u32 = 160;

/// Whether a device may have few registers an invocation.
fn few_registers(caps: &Capabilities) -> bool {
    !caps.software && !MANY_REGISTERS.contains(&caps.vendor)
}

/// Registers for S, dP and the gradients of an invocation.
fn registers(
    problem: &AttentionBackwardProblem,
    head_rows: &HeadRows,
    tile: &BlockedTile,
    side: Side,
) -> u32 {
    let [cols, value_cols] = cols(problem, tile);
    let cols = if side == Side::Keys { cols + value_cols } else { cols };
    let rows = 2 * tile.row_pairs;
    8 * rows * (head_rows.streams * tile.col_quads + cols)
}

/// Which rows the workgroups of a pass own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    /// Queries: dQ.
    Queries,
    /// Keys: dK and dV.
    Keys,
}

/// Sizes of one workgroup's work. It owns rows of one side, queries or keys, and walks over those
/// of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tile {
    /// Rows of both sides are staged in workgroup memory, for all invocations.
    Blocked(BlockedTile),
    /// A workgroup is one subgroup, whose invocations pass walked rows round by shuffles.
    Shuffled(ShuffledTile),
}

/// A tile in workgroup memory: `tx · ty` invocations own `2 row_pairs · ty` rows of one side and
/// walk over `4 col_quads · tx` rows of the other at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockedTile {
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
    /// For devices that have few registers an invocation: loops over walked rows are not unrolled,
    /// and what the workgroup works on lies in workgroup memory.
    pub few_registers: bool,
}

/// A tile of one subgroup, each of whose invocations owns rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShuffledTile {
    /// Invocations: the size that every subgroup of the device has. Divides the rows of a step.
    pub lanes: u32,
    /// Pairs of own rows an invocation.
    pub row_pairs: u32,
    /// Groups of four walked rows of a step.
    pub col_quads: u32,
}

impl From<BlockedTile> for Tile {
    fn from(tile: BlockedTile) -> Self {
        Self::Blocked(tile)
    }
}

impl From<ShuffledTile> for Tile {
    fn from(tile: ShuffledTile) -> Self {
        Self::Shuffled(tile)
    }
}

impl BlockedTile {
    fn check(&self, problem: &AttentionBackwardProblem) -> Result<()> {
        let parts = [self.tx, self.ty, self.row_pairs, self.col_quads, self.chunk_units];
        let invalid =
            |needed| Err(Error::Invalid { what: "tile", needed, got: format!("{self:?}") });
        if parts.iter().chain(&[self.y_quads]).any(|part| !(1..=1024).contains(part)) {
            return invalid("made of parts from 1 to 1024");
        }
        if !(self.col_quads * self.tx).is_multiple_of(self.y_quads) {
            return invalid("such that y_quads divides col_quads * tx");
        }
        if self.chunk_units > problem.attention.head_dim.max(problem.attention.value_dim) / 8 + 1 {
            return invalid("such that chunk_units is at most the channels / 8 + 1");
        }
        Ok(())
    }

    /// This tile with at most 8 units and 16 quads staged at once, and the same with less and less
    /// workgroup memory. `chunk_units` and `y_quads` are the most there are.
    fn thriftier(self) -> impl Iterator<Item = Self> {
        let forms = [(8, 16), (4, 16), (4, 8), (4, 4), (2, 2), (1, 1)];
        forms.into_iter().map(move |(chunk, y_quads)| Self {
            chunk_units: chunk.min(self.chunk_units),
            y_quads: y_quads.min(self.y_quads),
            ..self
        })
    }
}

impl ShuffledTile {
    fn check(&self) -> Result<()> {
        let parts = [self.lanes, self.row_pairs, self.col_quads];
        let fit = parts.iter().all(|part| (1..=1024).contains(part))
            && (4 * self.col_quads).is_multiple_of(self.lanes);
        if fit {
            return Ok(());
        }
        let needed = "made of parts from 1 to 1024, of which the lanes divide the walked rows";
        Err(Error::Invalid { what: "tile", needed, got: format!("{self:?}") })
    }

    /// For software adapters that have subgroups.
    fn of(caps: &Capabilities) -> Option<Self> {
        let (lanes, most) = caps.subgroup?;
        let tile = Self { lanes, row_pairs: 1, col_quads: 4 };
        (caps.software && lanes == most && tile.check().is_ok()).then_some(tile)
    }
}

impl Tile {
    /// Invocations along walked and along own rows, pairs of own rows and groups of four walked
    /// rows of each.
    pub(super) const fn grid(&self) -> [u32; 4] {
        match self {
            Self::Blocked(tile) => [tile.tx, tile.ty, tile.row_pairs, tile.col_quads],
            Self::Shuffled(tile) => [1, tile.lanes, tile.row_pairs, tile.col_quads],
        }
    }

    /// Rows that a workgroup owns.
    pub const fn own_rows(&self) -> u32 {
        let [_, ty, row_pairs, _] = self.grid();
        2 * row_pairs * ty
    }

    /// Rows of the other side that it walks over at a time.
    pub const fn walked_rows(&self) -> u32 {
        let [tx, _, _, col_quads] = self.grid();
        4 * col_quads * tx
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        let [tx, ty, _, _] = self.grid();
        tx * ty
    }

    /// The size that every subgroup must have, where it matters.
    pub(super) const fn subgroup(&self) -> Option<u32> {
        match self {
            Self::Blocked(_) => None,
            Self::Shuffled(tile) => Some(tile.lanes),
        }
    }

    pub(super) fn check(&self, problem: &AttentionBackwardProblem) -> Result<()> {
        match self {
            Self::Blocked(tile) => tile.check(problem),
            Self::Shuffled(tile) => tile.check(),
        }
    }

    /// The best tile that the device has room for.
    pub(super) fn choose(
        problem: &AttentionBackwardProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
        side: Side,
    ) -> Result<Self> {
        let fits = |tile: &Self| tile.fits(problem, head_rows, caps, side);
        if let Some(tile) = Self::preferred(problem, caps, side).find(fits) {
            return Ok(tile);
        }
        let bytes = |tile: Tile| Memory::bytes(problem, head_rows, &tile, side);
        Err(Error::Limit {
            limit: "max_compute_workgroup_storage_size",
            what: "the smallest tile of the backward pass",
            needed: Self::preferred(problem, caps, side)
                .map(bytes)
                .min()
                .unwrap_or(u32::MAX)
                .into(),
            available: caps.max_workgroup_bytes.into(),
        })
    }

    fn fits(
        &self,
        problem: &AttentionBackwardProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
        side: Side,
    ) -> bool {
        self.check(problem).is_ok()
            && self.threads() <= caps.max_invocations.min(caps.max_workgroup_size)
            && Memory::bytes(problem, head_rows, self, side) <= caps.max_workgroup_bytes
    }

    /// What a tuner should try: the default tile, then every shape in the roomiest form that fits,
    /// those of one row pair and quad an invocation before the others.
    pub(super) fn candidates(
        problem: &AttentionBackwardProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
        side: Side,
    ) -> Result<Vec<Self>> {
        let default = Self::choose(problem, head_rows, caps, side)?;
        let mut tiles = vec![default];
        let units = problem.channels().units().max(problem.attention.value_dim / 8);
        for (row_pairs, col_quads) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            for few_registers in [few_registers(caps), !few_registers(caps)] {
                for (tx, ty) in SHAPES {
                    let sizes = BlockedTile {
                        tx,
                        ty,
                        row_pairs,
                        col_quads,
                        chunk_units: units,
                        y_quads: tx,
                        few_registers,
                    };
                    let fits = |tile: &Self| tile.fits(problem, head_rows, caps, side);
                    let tile = sizes.thriftier().map(Self::Blocked).find(fits);
                    let modest = registers(problem, head_rows, &sizes, side) <= MOST_REGISTERS;
                    tiles.extend(tile.filter(|tile| modest && *tile != default));
                }
            }
        }
        Ok(tiles)
    }

    /// Best first, each in thriftier and thriftier forms.
    fn preferred(
        problem: &AttentionBackwardProblem,
        caps: &Capabilities,
        side: Side,
    ) -> impl Iterator<Item = Self> + use<> {
        let units = problem.channels().units().max(problem.attention.value_dim / 8);
        let few_registers = few_registers(caps);
        // dQ alone fits them as it is.
        let in_few = few_registers && side == Side::Keys;
        // Invocations along channels have one to four units of them.
        let shapes: &[(u32, u32)] = match (caps.software, units) {
            // No more than two units an invocation: software adapters unroll, and take long to
            // compile.
            (true, ..=8) => &[(4, 4), (4, 2)],
            (true, ..=16) => &[(8, 4), (4, 2)],
            (true, _) => &[(16, 4), (8, 4), (4, 2)],
            (false, ..=8) => &[(8, 32), (8, 16), (8, 8), (8, 4), (4, 4)],
            // One unit an invocation.
            (false, ..=16) if few_registers => {
                &[(16, 16), (16, 8), (8, 16), (16, 4), (8, 8), (8, 4), (4, 4)]
            }
            (false, ..=16) => {
                &[(8, 32), (16, 16), (8, 16), (16, 8), (8, 8), (16, 4), (8, 4), (4, 4)]
            }
            (false, _) => &[(16, 16), (16, 8), (16, 4), (8, 8), (8, 4), (4, 4)],
        };
        let blocked = shapes.iter().flat_map(move |&(tx, ty)| {
            let sizes = BlockedTile {
                tx,
                ty,
                row_pairs: 1,
                col_quads: 1,
                chunk_units: units,
                y_quads: tx,
                few_registers: in_few,
            };
            sizes.thriftier()
        });
        ShuffledTile::of(caps).map(Self::Shuffled).into_iter().chain(blocked.map(Self::Blocked))
    }
}

impl core::fmt::Display for Tile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [tx, ty, row_pairs, col_quads] = self.grid();
        write!(f, "{} rows x {}, ", self.own_rows(), self.walked_rows())?;
        match self {
            Self::Shuffled(_) => {
                let rows = 2 * row_pairs;
                write!(f, "a subgroup of {ty} invocations of {rows} rows, the others shuffled")
            }
            Self::Blocked(tile) => write!(
                f,
                "{tx} x {ty} invocations of {} x {} scores, {} channels and {} rows staged at once{}",
                2 * row_pairs,
                4 * col_quads,
                8 * tile.chunk_units,
                4 * tile.y_quads,
                if tile.few_registers { ", few registers" } else { "" },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;
    use crate::plan::attention::AttentionProblem;
    use crate::plan::attention_backward::AttentionBackwardPlan;

    #[test]
    fn a_tuner_tries_legal_tiles_the_default_first() {
        let mut roomy = Capabilities::webgpu_default();
        (roomy.vendor, roomy.max_workgroup_bytes) = (0x10de, 48 << 10);
        for caps in [Capabilities::webgpu_default(), roomy] {
            for head_dim in [16, 72, 128, 256] {
                let heads = HeadMap::ropepp(2).unwrap();
                let problem =
                    AttentionBackwardProblem::new(AttentionProblem::new(heads, 1, head_dim));
                let default = problem.plan(&caps).unwrap().tiles_of_passes();
                let candidates = AttentionBackwardPlan::candidates(&problem, &caps).unwrap();
                for (n, tiles) in candidates.iter().enumerate() {
                    assert!(tiles.len() > 4 && tiles[0] == default[n], "{head_dim}: {tiles:?}");
                    for (i, &tile) in tiles.iter().enumerate() {
                        assert!(!tiles[..i].contains(&tile));
                        let mut pair = default;
                        pair[n] = tile;
                        AttentionBackwardPlan::with_tiles(&problem, &caps, pair).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn devices_with_many_registers_are_known_by_their_vendor() {
        let heads = HeadMap::plain(2).unwrap();
        let problem = AttentionBackwardProblem::new(AttentionProblem::new(heads, 1, 128));
        let of = |vendor, software| {
            let caps = Capabilities { vendor, software, ..Capabilities::webgpu_default() };
            problem.plan(&caps).unwrap().tiles_of_passes().map(|tile| match tile {
                Tile::Blocked(tile) => tile.few_registers,
                Tile::Shuffled(_) => false,
            })
        };
        assert_eq!(of(0x8086, false), [false, true]);
        assert_eq!(of(0, false), [false, true]);
        assert_eq!(of(0x10de, false), [false; 2]);
        assert_eq!(of(0, true), [false; 2]);
    }
}
