//! Where the tiles lie in workgroup memory.

use super::tile::Side;
use super::{AttentionBackwardProblem, BlockedTile, Tile};
use crate::plan::head_rows::HeadRows;

/// Where a blocked tile's parts lie in the one workgroup array, in groups: four `vec4<f32>`, and
/// one that is never used and keeps neighbouring groups in different banks. Operands of the scores
/// lie over weights and what they are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) r_pitch: u32,
    pub(super) c_at: u32,
    pub(super) values_at: u32,
    pub(super) w_groups: u32,
    pub(super) w_pitch: u32,
    pub(super) y_at: u32,
    pub(super) y_cols: u32,
    pub(super) len: u32,
}

/// Bytes of `Work` (attention_backward/work.wgsl).
const WORK: u64 = 112;

/// Units of eight channels of dq or dk, and of dv, that an invocation adds up.
pub(super) fn cols(problem: &AttentionBackwardProblem, tile: &BlockedTile) -> [u32; 2] {
    let units = [problem.channels().units(), problem.attention.value_dim / 8];
    units.map(|units| units.div_ceil(tile.tx))
}

impl Memory {
    /// Numbers past 32 bits, which no device has room for, stay at the largest one.
    pub(super) fn new(
        problem: &AttentionBackwardProblem,
        head_rows: &HeadRows,
        tile: &BlockedTile,
        side: Side,
    ) -> Self {
        let n = u64::from;
        let streams = n(head_rows.streams);
        let [cols, value_cols] = cols(problem, tile).map(n);
        let (own_streams, walked_streams, cols) = match side {
            Side::Queries => (streams, 1, cols),
            Side::Keys => (1, streams, cols.max(value_cols)),
        };
        let block_cq = n(tile.col_quads) * n(tile.tx);
        // Odd, so that neighbouring units and quads are written to different banks.
        let r_pitch = (n(tile.row_pairs) * n(tile.ty)) | 1;
        let chunk = n(tile.chunk_units);
        let c_at = chunk * r_pitch;
        let values_at = own_streams * chunk * r_pitch;
        let scores = c_at + 2 * chunk * block_cq;
        let values = values_at + 2 * walked_streams * chunk * block_cq;
        let w_groups = (n(tile.row_pairs) * streams).div_ceil(2);
        let w_pitch = (w_groups * n(tile.ty)) | 1;
        let y_at = block_cq * w_pitch;
        let y_cols = n(tile.tx) * cols;
        let products = y_at + 2 * n(tile.y_quads) * y_cols;
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            r_pitch: narrow(r_pitch),
            c_at: narrow(c_at),
            values_at: narrow(values_at),
            w_groups: narrow(w_groups),
            w_pitch: narrow(w_pitch),
            y_at: narrow(y_at),
            y_cols: narrow(y_cols),
            len: narrow(scores.max(values).max(products)),
        }
    }

    /// Workgroup memory of a workgroup.
    pub(super) fn bytes(
        problem: &AttentionBackwardProblem,
        head_rows: &HeadRows,
        tile: &Tile,
        side: Side,
    ) -> u32 {
        let bytes = match tile {
            Tile::Blocked(tile) => {
                let work = if tile.few_registers { WORK } else { 0 };
                5 * 16 * u64::from(Self::new(problem, head_rows, tile, side).len) + work
            }
            Tile::Shuffled(_) => {
                // Pairs and their sums; values, of dO for every stream, or of V and sums of dV.
                let pairs = 4 * u64::from(problem.channels().units());
                let columns = u64::from(problem.attention.value_dim / 4);
                let values = match side {
                    Side::Queries => u64::from(head_rows.streams) * columns,
                    Side::Keys => 2 * columns,
                };
                16 * u64::from(tile.own_rows()) * (pairs + values)
            }
        };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}
