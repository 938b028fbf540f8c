//! The uniforms of linear attention, as the shaders lay them out.

use crate::call::{RotaryParams, Strides};
use crate::uniform::uniform;

uniform! {
    /// `Params` of `shaders/linear_attention/params.wgsl`.
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
        pub(super) q: Strides,
        pub(super) k: Strides,
        pub(super) v: Strides,
        pub(super) out: Strides,
        pub(super) rotary: RotaryParams,
    }
}

uniform! {
    /// `Params` of `shaders/linear_attention/favor.wgsl`.
    pub(super) struct FavorParams {
        pub(super) batch: u32,
        pub(super) heads: u32,
        pub(super) seq: u32,
        pub(super) groups_x: u32,
        pub(super) tiles: u32,
        pub(super) is_query: u32,
        pub(super) key_offset: f32,
        pub(super) scale: f32,
        pub(super) x: Strides,
    }
}

uniform! {
    /// `Head` of `shaders/linear_attention/queries.wgsl`.
    pub(super) struct Head {
        pub(super) source: u32,
        pub(super) cos: f32,
        pub(super) sin: f32,
        pub(super) pad: u32,
    }
}
