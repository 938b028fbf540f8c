//! Where the tiles lie in workgroup memory.

use super::{AttentionProblem, BlockedTile, Tile};
use crate::plan::head_rows::HeadRows;

/// Offsets into the one workgroup array, in groups: four `vec4<f32>`, and one that is never used
/// and keeps neighbouring groups in different banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) q_at: u32,
    pub(super) k_at: u32,
    pub(super) v_at: u32,
    pub(super) p_at: u32,
    pub(super) red_at: u32,
    pub(super) len: u32,
    /// Row pitch of p.
    pub(super) p_row: u32,
    /// p and v lie over k (or q).
    pub(super) pv_aliased: bool,
    /// The row maxima lie under p or v.
    pub(super) red_aliased: bool,
}

impl Memory {
    /// Numbers past 32 bits, which no device has room for, stay at the largest one.
    pub(super) fn new(
        problem: &AttentionProblem,
        head_rows: &HeadRows,
        tile: &BlockedTile,
    ) -> Self {
        let n = u64::from;
        let block_qp = n(tile.row_pairs) * n(tile.ty);
        let block_kq = n(tile.key_quads) * n(tile.tx);
        let q_units = if tile.q_resident { problem.channels().units() } else { tile.chunk_units };
        let q = n(q_units) * block_qp;
        let k = 2 * n(tile.chunk_units) * block_kq;
        let v = n(tile.v_quads) * n(tile.tx) * n(tile.cols(problem.value_dim));
        // Odd, so that neighbouring key quads are written to different banks.
        let p_row = (n((tile.row_pairs * head_rows.streams).div_ceil(2)) * n(tile.ty)) | 1;
        let p = block_kq * p_row;
        let states = n((2 * tile.row_pairs * head_rows.streams).div_ceil(4));
        let red = (n(tile.tx) * n(tile.ty) * states).div_ceil(4);
        let apart = tile.pv_apart && tile.q_resident;
        let p_at = match (apart, tile.q_resident) {
            (true, _) => q + k,
            (false, true) => q,
            (false, false) => 0,
        };
        let v_at = p_at + p;
        let red_at = if apart { v_at + v } else { q + k };
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            q_at: 0,
            k_at: narrow(q),
            v_at: narrow(v_at),
            p_at: narrow(p_at),
            red_at: narrow(red_at),
            len: narrow((v_at + v).max(red_at + red)),
            p_row: narrow(p_row),
            pv_aliased: !apart,
            red_aliased: red_at < v_at + v,
        }
    }

    /// Workgroup memory of a workgroup.
    pub(super) fn bytes(problem: &AttentionProblem, head_rows: &HeadRows, tile: &Tile) -> u32 {
        let blocked = match tile {
            Tile::Blocked(tile) => tile,
            Tile::Matrices(tile) => return tile.bytes(problem, head_rows.streams),
            Tile::Shuffled(_) => {
                let q = 2 * u64::from(problem.channels().units());
                let out = u64::from(head_rows.streams) * u64::from(problem.value_dim / 4);
                let bytes = 16 * u64::from(tile.block_q()) * (q + out);
                return u32::try_from(bytes).unwrap_or(u32::MAX);
            }
        };
        // Where the rows of a tile's keys start.
        let places = if problem.has_slots() { 8 * tile.block_k() } else { 0 };
        // A vector's room beside the array for the flag of values that are not finite.
        Self::new(problem, head_rows, blocked)
            .len
            .saturating_mul(5 * 16)
            .saturating_add(16 + places)
    }
}
