//! The tiles that are preferred, by problem and device.

use super::{AttentionProblem, BlockedTile};
use crate::plan::Capabilities;
use crate::plan::head_rows::HeadRows;

/// A tile for problems and devices of a kind. Rows were chosen by what the compilers of
/// tools/gpu-lab say of each: no spills first, then the share of multiply-adds, then occupancy.
/// NVIDIA's were timed as well, on an H100 (driver 580.159.04, example tune).
pub(super) struct Row {
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
    /// AMD's.
    Amd,
    /// No subgroup is narrower than 32. Where one may be, on Intel, an invocation has half the
    /// registers or less.
    Wide,
    Any,
}

const NVIDIA: u32 = 0x10de;
const AMD: u32 = 0x1002;

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
/// once; in the comment, workgroup memory at the largest dimension. Up to D 96 the compilers make
/// less of queries in chunks than of the same queries held, at D 128 more.
const TABLE: [Row; 38] = [
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
    row(Device::Wide, 1, 96, (16, 8, 2, 1), 8, 4),    // 38 KiB
    row(Device::Any, 2, 96, (16, 16, 1, 1), 8, 4),    // 47 KiB
    row(Device::Any, 2, 96, (16, 8, 1, 1), 4, 2),     // 24 KiB
    row(Device::Amd, 1, 128, (16, 16, 2, 2), 4, 2).q_in_chunks(), // 48 KiB
    row(Device::Amd, 2, 128, (8, 32, 1, 2), 8, 2).q_in_chunks(), // 46 KiB
    row(Device::Wide, 1, 128, (16, 8, 2, 1), 8, 4),   // 43 KiB
    row(Device::Wide, 1, 128, (16, 8, 2, 1), 4, 2).q_in_chunks(), // 18 KiB
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

    pub(super) fn of(
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
                Device::Amd => caps.vendor == AMD && !software,
                Device::Wide => wide && !software,
                Device::Any => !software,
            };
            device && streams <= row.streams && dim <= row.dim
        })
    }

    pub(super) fn tile(&self, units: u32) -> BlockedTile {
        let (tx, ty, row_pairs, key_quads) = self.shape;
        BlockedTile {
            tx,
            ty,
            row_pairs,
            key_quads,
            chunk_units: self.chunk_units.min(units),
            q_resident: self.q_resident,
            v_quads: self.v_quads,
            pv_apart: false,
        }
    }
}
