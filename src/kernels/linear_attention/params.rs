//! The uniforms of linear attention, as the shaders lay them out.

use bytemuck::{Pod, Zeroable};

use crate::Layout;
use crate::gpu::RotaryParams;

/// `Quads` of `shaders/linear_attention.wgsl`: offset and strides in groups of four channels.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(super) struct Quads {
    pub(super) offset: u32,
    pub(super) batch: u32,
    pub(super) head: u32,
    pub(super) row: u32,
}

impl Quads {
    pub(super) fn new(layout: &Layout) -> Self {
        let [batch, head, row] = layout.strides.map(|stride| stride / 4);
        Self { offset: layout.offset / 4, batch, head, row }
    }
}

/// `Params` of `shaders/linear_attention.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) batch: u32,
    pub(super) seq_q: u32,
    pub(super) seq_k: u32,
    pub(super) kv_heads: u32,
    pub(super) group: u32,
    pub(super) groups_x: u32,
    pub(super) chunks: u32,
    pub(super) tiles: u32,
    pub(super) heads_out: u32,
    pub(super) resume: u32,
    pub(super) plane_q: u32,
    pub(super) plane_k: u32,
    pub(super) q: Quads,
    pub(super) k: Quads,
    pub(super) v: Quads,
    pub(super) out: Quads,
    pub(super) rotary: RotaryParams,
}

/// `Params` of `shaders/linear_attention/favor.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(super) struct FavorParams {
    pub(super) batch: u32,
    pub(super) heads: u32,
    pub(super) seq: u32,
    pub(super) groups_x: u32,
    pub(super) tiles: u32,
    pub(super) is_query: u32,
    pub(super) key_offset: f32,
    pub(super) scale: f32,
    pub(super) x: Quads,
}

/// `Head` of `shaders/linear_attention/outputs.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(super) struct Head {
    pub(super) source: u32,
    pub(super) cos: f32,
    pub(super) sin: f32,
    pub(super) pad: u32,
}
