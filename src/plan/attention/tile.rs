//! The tile: how a workgroup is cut into invocations, queries and keys.

use super::AttentionProblem;
use super::memory::Memory;
use crate::plan::head_rows::HeadRows;
use crate::plan::{Capabilities, Suspect};
use crate::{Error, Result};

/// Sizes of one workgroup's work. `tx · ty` invocations; a row of `tx` shares its queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
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
    /// A workgroup is one subgroup, whose invocations pass keys and values round by shuffles: `tx`
    /// is 1 and `ty` the size that every subgroup of the device has. `chunk_units`, `q_resident`,
    /// `v_quads` and `pv_apart` mean nothing then.
    pub shuffled: bool,
}

impl Tile {
    /// Queries of a workgroup.
    pub const fn block_q(&self) -> u32 {
        2 * self.row_pairs * self.ty
    }

    /// Keys of a step.
    pub const fn block_k(&self) -> u32 {
        4 * self.key_quads * self.tx
    }

    /// Invocations of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.tx * self.ty
    }

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
        if self.shuffled && (self.tx != 1 || !self.block_k().is_multiple_of(self.ty)) {
            return invalid("such that tx = 1 and ty divides the keys, where they are shuffled");
        }
        if self.chunk_units > problem.head_dim / 8 + 1 {
            return invalid("such that chunk_units <= head_dim / 8 + 1");
        }
        Ok(())
    }

    /// The first [preferred tile](Tile::preferred) that is not quarantined.
    pub(super) fn choose(
        problem: &AttentionProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
    ) -> Result<Self> {
        let candidates = || Self::preferred(problem, head_rows, caps);
        let allowed = |tile: &Tile| caps.allow(Suspect::Tile(*tile));
        if let Some(tile) = candidates().find(|tile| allowed(tile).is_ok()) {
            return Ok(tile);
        }
        if let Some(first) = candidates().next() {
            // All of them are quarantined: the reason of the best one stands for the rest.
            allowed(&first)?;
        }
        let least =
            Self::thrifty(problem).map(|tile| Memory::bytes(problem, head_rows, &tile)).min();
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
        Self::shuffled(caps).into_iter().chain(table).chain(Self::thrifty(problem)).filter(|tile| {
            tile.threads() <= caps.max_invocations.min(caps.max_workgroup_size)
                && Memory::bytes(problem, head_rows, tile) <= caps.max_workgroup_bytes
        })
    }

    /// For software adapters that have subgroups. Timed on lavapipe 25.0.7 (subgroups of 8): twice
    /// the rows at once gain an eighth with one stream and lose a third with two, and take a third
    /// longer to compile.
    fn shuffled(caps: &Capabilities) -> Option<Self> {
        let (ty, most) = caps.subgroup?;
        let tile = Tile {
            tx: 1,
            ty,
            row_pairs: 1,
            key_quads: 4,
            chunk_units: 1,
            q_resident: true,
            v_quads: 1,
            pv_apart: true,
            shuffled: true,
        };
        (caps.software && ty == most && tile.block_k().is_multiple_of(ty)).then_some(tile)
    }

    fn thrifty(problem: &AttentionProblem) -> impl Iterator<Item = Self> + use<> {
        let units = problem.channels().units();
        let shapes = [(8, 8), (16, 4), (16, 2), (8, 4)].map(|(tx, ty)| Tile {
            tx,
            ty,
            row_pairs: 1,
            key_quads: 1,
            chunk_units: units,
            q_resident: true,
            v_quads: tx,
            pv_apart: false,
            shuffled: false,
        });
        shapes.into_iter().flat_map(move |tile| tile.thriftier(units))
    }

    /// This tile, and the same with less and less workgroup memory.
    fn thriftier(self, units: u32) -> impl Iterator<Item = Tile> {
        let halves =
            |n: u32| core::iter::successors(Some(n), |&n| (n > 1).then_some(n.div_ceil(2)));
        let quads = move || {
            core::iter::successors(Some(self.v_quads), |&n| n.is_multiple_of(2).then_some(n / 2))
        };
        [true, false].into_iter().flat_map(move |q_resident| {
            halves(units).flat_map(move |chunk_units| {
                quads().map(move |v_quads| Tile { chunk_units, v_quads, q_resident, ..self })
            })
        })
    }
}

/// A tile for problems and devices of a kind. Rows were chosen by what the compilers of
/// tools/gpu-lab say of each: no spills first, then the share of multiply-adds, then occupancy.
/// NVIDIA's were timed as well, on an H100 (driver 580.159.04, example tune).
struct Row {
    device: Device,
    /// Most streams of a pass.
    streams: u32,
    /// Largest of D and D_v.
    dim: u32,
    shape: (u32, u32, u32, u32),
    chunk_units: u32,
    v_quads: u32,
    q_resident: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    /// Shaders run on the CPU.
    Software,
    /// NVIDIA's.
    Nvidia,
    /// No subgroup is narrower than 32. Where one may be, on Intel, an invocation has half the
    /// registers or less.
    Wide,
    Any,
}

const NVIDIA: u32 = 0x10de;

const fn row(
    device: Device,
    streams: u32,
    dim: u32,
    shape: (u32, u32, u32, u32),
    chunk_units: u32,
    v_quads: u32,
) -> Row {
    Row { device, streams, dim, shape, chunk_units, v_quads, q_resident: true }
}

/// Best first. `(tx, ty, row_pairs, key_quads)`, units of q and k and key quads of v staged at
/// once; in the comment, workgroup memory at the largest dimension.
const TABLE: [Row; 32] = [
    row(Device::Software, 2, 64, (4, 4, 2, 2), 8, 8),
    row(Device::Software, 2, 128, (4, 4, 2, 2), 8, 4),
    row(Device::Software, 2, 256, (4, 4, 2, 2), 8, 1),
    row(Device::Software, 2, 256, (4, 4, 1, 1), 4, 1),
    row(Device::Software, 2, 576, (8, 4, 1, 1), 4, 1).q_in_chunks(),
    row(Device::Nvidia, 1, 64, (16, 16, 2, 1), 8, 4), // 47 KiB
    row(Device::Nvidia, 2, 64, (8, 32, 1, 1), 8, 4),  // 46 KiB
    row(Device::Nvidia, 1, 128, (16, 16, 2, 2), 4, 2).q_in_chunks(), // 48 KiB
    row(Device::Nvidia, 2, 128, (8, 32, 1, 2), 8, 2).q_in_chunks(), // 46 KiB
    row(Device::Nvidia, 1, 256, (16, 16, 2, 1), 8, 4).q_in_chunks(), // 45 KiB
    row(Device::Nvidia, 2, 256, (8, 32, 1, 2), 8, 1).q_in_chunks(), // 46 KiB
    row(Device::Wide, 1, 64, (8, 16, 2, 1), 8, 4),    // 36 KiB
    row(Device::Any, 2, 64, (16, 16, 1, 1), 8, 8),    // 42 KiB
    row(Device::Any, 2, 64, (8, 16, 1, 1), 8, 4),     // 26 KiB
    row(Device::Any, 2, 64, (8, 8, 1, 1), 8, 4),      // 16 KiB
    row(Device::Wide, 1, 128, (16, 8, 2, 1), 8, 4),   // 43 KiB
    row(Device::Any, 2, 128, (16, 16, 1, 1), 8, 4),   // 52 KiB
    row(Device::Wide, 2, 128, (8, 16, 1, 1), 16, 4),  // 43 KiB
    row(Device::Any, 2, 128, (16, 8, 1, 1), 4, 2),    // 27 KiB
    row(Device::Any, 2, 128, (16, 4, 1, 1), 4, 1),    // 15 KiB
    row(Device::Any, 1, 256, (16, 8, 1, 1), 8, 2),    // 42 KiB
    row(Device::Wide, 2, 256, (16, 8, 1, 1), 8, 2),   // 42 KiB
    row(Device::Any, 2, 256, (32, 8, 1, 1), 4, 2),    // 53 KiB
    row(Device::Any, 1, 256, (16, 4, 1, 1), 4, 2),    // 27 KiB
    row(Device::Any, 2, 256, (32, 4, 1, 1), 2, 1),    // 28 KiB
    row(Device::Any, 2, 256, (16, 2, 1, 1), 2, 1),    // 14 KiB
    row(Device::Any, 2, 64, (8, 4, 1, 1), 4, 4),
    row(Device::Any, 2, 128, (8, 4, 1, 1), 4, 2),
    row(Device::Any, 2, 256, (8, 4, 1, 1), 4, 1),
    row(Device::Any, 2, 576, (32, 8, 1, 1), 4, 2).q_in_chunks(), // 43 KiB
    row(Device::Any, 2, 576, (16, 8, 1, 1), 8, 2).q_in_chunks(), // 31 KiB
    row(Device::Any, 2, 576, (16, 2, 1, 1), 2, 1).q_in_chunks(), // 14 KiB
];

impl Row {
    /// Queries in chunks too, again for every key tile: room for more queries and keys at once.
    const fn q_in_chunks(self) -> Self {
        Self { q_resident: false, ..self }
    }

    fn of(
        problem: &AttentionProblem,
        head_rows: &HeadRows,
        caps: &Capabilities,
    ) -> impl Iterator<Item = &'static Row> {
        let dim = problem.head_dim.max(problem.value_dim);
        let streams = head_rows.streams;
        let software = caps.software;
        let wide = caps.subgroup.is_some_and(|(least, _)| least >= 32);
        TABLE.iter().filter(move |row| {
            let device = match row.device {
                Device::Software => software,
                Device::Nvidia => caps.vendor == NVIDIA && !software,
                Device::Wide => wide && !software,
                Device::Any => !software,
            };
            device && streams <= row.streams && dim <= row.dim
        })
    }

    fn tile(&self, units: u32) -> Tile {
        let (tx, ty, row_pairs, key_quads) = self.shape;
        Tile {
            tx,
            ty,
            row_pairs,
            key_quads,
            chunk_units: self.chunk_units.min(units),
            q_resident: self.q_resident,
            v_quads: self.v_quads,
            pv_apart: false,
            shuffled: false,
        }
    }
}

impl core::fmt::Display for Tile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.shuffled {
            let (queries, keys) = (self.block_q(), self.block_k());
            let rows = 2 * self.row_pairs;
            return write!(
                f,
                "{queries} queries x {keys} keys, a subgroup of {} invocations of {rows} queries, keys and values shuffled",
                self.ty,
            );
        }
        write!(
            f,
            "{} queries x {} keys, {} x {} invocations of {} x {} scores, {} channels of k and {} keys of v staged at once{}{}",
            self.block_q(),
            self.block_k(),
            self.tx,
            self.ty,
            2 * self.row_pairs,
            4 * self.key_quads,
            8 * self.chunk_units,
            4 * self.v_quads,
            if self.q_resident { "" } else { ", q re-staged" },
            if self.pv_apart { "" } else { ", v over k" },
        )
    }
}
