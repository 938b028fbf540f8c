//! Where the tiles lie in workgroup memory.

use super::{AttentionProblem, Programs, Tile};

/// Offsets into the one workgroup array, in `vec4<f32>`.
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
    /// Rotated pairs and tail channels in groups of four pairs, as the shader walks them:
    /// `(pairs, pair quads, tail quads)`.
    pub(super) fn pairs(problem: &AttentionProblem) -> (u32, u32, u32) {
        // Where pairs do not matter, all channels count as pairs of a half-split head.
        let rotary_dim = if problem.needs_pairs() { problem.rotary_dim } else { problem.head_dim };
        let pairs = rotary_dim / 2;
        (pairs, pairs.div_ceil(4), (problem.head_dim - rotary_dim).div_ceil(8))
    }

    pub(super) fn units(problem: &AttentionProblem) -> u32 {
        let (_, pair_quads, tail_quads) = Self::pairs(problem);
        pair_quads + tail_quads
    }

    pub(super) fn new(problem: &AttentionProblem, programs: &Programs, tile: &Tile) -> Self {
        let block_qp = tile.row_pairs * tile.ty;
        let block_kq = tile.key_quads * tile.tx;
        let q_units = if tile.q_resident { Self::units(problem) } else { tile.chunk_units };
        let q = 4 * q_units * block_qp;
        let k = 8 * tile.chunk_units * block_kq;
        let v = 4 * tile.v_quads * tile.tx * tile.cols(problem.value_dim);
        // One more than the row pairs, so that neighbouring keys write to different banks.
        let p_row = block_qp + 1;
        let p = 2 * programs.streams * block_kq * p_row;
        let red = tile.threads() * (2 * tile.row_pairs * programs.streams).div_ceil(4);
        let apart = tile.pv_apart && tile.q_resident;
        let p_at = match (apart, tile.q_resident) {
            (true, _) => q + k,
            (false, true) => q,
            (false, false) => 0,
        };
        let v_at = p_at + p;
        let red_at = if apart { v_at + v } else { q + k };
        Self {
            q_at: 0,
            k_at: q,
            v_at,
            p_at,
            red_at,
            len: (v_at + v).max(red_at + red),
            p_row,
            pv_aliased: !apart,
            red_aliased: red_at < v_at + v,
        }
    }

    pub(super) fn bytes(&self) -> u32 {
        16 * self.len
    }
}
