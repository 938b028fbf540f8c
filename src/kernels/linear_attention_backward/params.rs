//! The uniform of a backward call of linear attention, as the shaders lay it out.

use crate::call::{RotaryParams, Strides};
use crate::uniform::uniform;

uniform! {
    /// `Params` of `shaders/linear_attention_backward/params.wgsl`.
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
        pub(super) states_at: u32,
        pub(super) z_at: u32,
        pub(super) rows_at: u32,
        pub(super) q_heads: u32,
        pub(super) q: Strides,
        pub(super) k: Strides,
        pub(super) v: Strides,
        pub(super) out: Strides,
        pub(super) d_out: Strides,
        pub(super) grad: Strides,
        pub(super) rotary: RotaryParams,
    }
}
