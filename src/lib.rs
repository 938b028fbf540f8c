#![doc = include_str!("../README.md")]
// docs.rs says at each item which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
// What is `pub` can be had from outside.
#![warn(unreachable_pub)]
// Nothing that a caller does may end in a panic.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod bits;
mod call;
mod dtype;
mod error;
mod features;
#[cfg(feature = "wgpu")]
mod gpu;
mod heads;
mod kernels;
#[cfg(feature = "wgpu")]
pub mod layers;
mod layout;
pub mod numerics;
pub mod oracle;
mod phase;
mod plan;
#[cfg(test)]
mod reflect;
pub mod rotary;
#[cfg(feature = "wgpu")]
pub mod selftest;
#[cfg(all(feature = "wgpu", not(target_arch = "wasm32")))]
pub mod tuner;
mod uniform;

pub use dtype::DType;
pub use error::{Error, Result};
#[cfg(feature = "wgpu")]
pub use gpu::{Compiler, Dispatch, Kernel, Kernels, Part, Tensor};
pub use heads::HeadMap;
pub use layout::Layout;
pub use phase::{OutputHead, Phase};
pub use plan::rules::Bias;
pub use plan::{
    Budget, Capabilities, Cost, KernelKind, MaskHook, Matrices, MatrixSide, NoMatrices, Precision,
    Quarantine, ScoreHook, Sharing, Suspect, Trust,
};
#[cfg(all(feature = "wgpu", not(target_arch = "wasm32")))]
pub use selftest::selftest;
#[cfg(feature = "wgpu")]
pub use wgpu;

/// Attention of many query rows over their keys, prefill above all.
///
/// [`AttentionProblem`](attention::AttentionProblem) says what to compute,
/// [`AttentionPlan`](attention::AttentionPlan) how, [`Attention`](attention::Attention) is the
/// compiled kernel. Nothing of size S_q × S_k is stored. Real and imaginary heads of RoPE++ come
/// from one pass over K and V.
pub mod attention {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{Attention, AttentionBindings, BlockList};
    pub use crate::plan::attention::{
        Alignment, AttentionPlan, AttentionProblem, AttentionShape, BlockedTile, Cut, CutPart,
        Keys, MatrixTile, Outputs, Queries, ShuffledTile, Tile,
    };
}

/// The gradients of attention, for training: of q, k and v, of sinks and an additive bias.
///
/// A backward call reads what the forward call read, its output and log-sum-exp, and the gradient
/// of the loss with respect to the output (and to the log-sum-exp, if the loss reads it):
///
/// | gradient | with respect to | where |
/// |---|---|---|
/// | `dq`, `dk` | un-rotated q and k, with [`unrotate`](attention_backward::AttentionBackwardProblem::unrotate): turned back by the table, whose attention scaling multiplies them; otherwise the rotated ones | f32, of q's and k's shape |
/// | `dv` | v | f32, of v's shape |
/// | `d_sinks`, `d_bias` | sinks and an additive bias, where asked for | f32 |
///
/// `dq` adds up all output heads of a query head, `dk` and `dv` all query heads of a group.
/// Gradients are written, not added to what is there. Slopes, scales and a `score_mod` have none.
/// Of a rotation alone the gradient is [`Direction::Inverse`](rope::Direction::Inverse) with an
/// [`attention_scaling`](rope::RopeProblem::attention_scaling) of 1: the transpose, which
/// multiplies by the table's scaling and does not divide by it.
///
/// Deterministic: no atomics, and every sum in an order that a sequence's own length decides. A NaN
/// or an infinity in a row of a sequence may reach the gradients of any other of it; padding may
/// hold anything.
///
/// One attention layer of a training step, RoPE++ with q un-rotated and k rotated before:
///
/// ```no_run
/// use phasor::attention::*;
/// use phasor::attention_backward::*;
/// use phasor::rotary::{CosSin, Positions, Rotation};
/// use phasor::{Capabilities, DType, HeadMap, Layout, Tensor, wgpu};
///
/// fn step(
///     device: &wgpu::Device,
///     encoder: &mut wgpu::CommandEncoder,
///     (heads, kv_heads, seq, dim): (u32, u32, u32, u32),
///     [q, k, v, out, d_out, dq, dk, dv]: [&wgpu::Buffer; 8],
///     [lse, workspace]: [&wgpu::Buffer; 2],
///     table: &CosSin<'_>,
/// ) -> phasor::Result<()> {
///     let forward = AttentionProblem::new(HeadMap::ropepp(heads)?, kv_heads, dim);
///     let forward = AttentionProblem { rotate_q: true, lse: true, ..forward };
///     let caps = Capabilities::of(device);
///     let attention = Attention::new(device, &forward.plan(&caps)?)?; // compiled once, kept
///     let backward = AttentionBackwardProblem::new(forward).plan(&caps)?;
///     let backward = AttentionBackward::new(device, &backward)?;
///     let shape = AttentionShape::new(1, seq, seq);
///     // The workspace has backward.plan().workspace_bytes(&shape, seq).
///     let tensor = |buffer, heads| -> phasor::Result<Tensor<'_>> {
///         Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, heads, seq, dim])?))
///     };
///     let qkv = [tensor(q, heads)?, tensor(k, kv_heads)?, tensor(v, kv_heads)?];
///     let o = tensor(out, 2 * heads)?;
///     let positions = || Positions::From(0);
///     let [a, b, c] = qkv.clone();
///     let mut bindings = AttentionBindings::new(a, b, c, o.clone());
///     bindings.lse = Some(lse.as_entire_buffer_binding());
///     bindings.rotation = Some(Rotation::new(table.clone(), positions()));
///     attention.bind(device, &shape, &bindings)?.encode(encoder);
///     // the output projection, the rest of the model, the loss; and back, to d_out
///     let gradients = [tensor(dq, heads)?, tensor(dk, kv_heads)?, tensor(dv, kv_heads)?];
///     let [lse, workspace] = [lse, workspace].map(|buffer| buffer.as_entire_buffer_binding());
///     let d_out = tensor(d_out, 2 * heads)?;
///     let mut bindings =
///         AttentionBackwardBindings::new(qkv, (o, lse), d_out, gradients, workspace);
///     bindings.rotation = Some(BackwardRotation {
///         table: table.clone(),
///         q_positions: positions(),
///         k_positions: positions(),
///     });
///     backward.bind(device, &shape, &bindings)?.encode(encoder);
///     // dq, dk, dv: on to the projections of q, k and v
///     Ok(())
/// }
/// ```
pub mod attention_backward {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{AttentionBackward, AttentionBackwardBindings, BackwardRotation};
    pub use crate::plan::attention_backward::{
        AttentionBackwardPlan, AttentionBackwardProblem, BlockedTile, ShuffledTile, Tile,
    };
}

/// Attention of 1 to 16 query rows over a cache, its keys split over workgroups and merged.
pub mod decode {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{Decode, DecodeBindings};
    pub use crate::plan::decode::{DecodePlan, DecodeProblem, DecodeShape, Tile};
}

/// Rotation of queries and keys by their positions (RoPE), in one dispatch.
pub mod rope {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{Rope, RopeBindings};
    pub use crate::plan::rope::{Direction, RopePlan, RopeProblem, RopeShape};
}

/// New rows into a cache: rotated, converted and written in one dispatch.
pub mod kv_append {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{KvAppend, KvAppendBindings};
    pub use crate::plan::kv_append::{KvAppendPlan, KvAppendProblem, KvAppendShape};
}

/// Rows moved within a cache: context shift, with keys turned by the distance, and copies of a
/// prefix.
pub mod kv_move {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{KvMove, KvMoveBindings};
    pub use crate::plan::kv_move::{KvMovePlan, KvMoveProblem, KvMoveShape, Move, check_moves};
}

/// Attention over parts of the keys, merged into attention over all of them by their log-sum-exps.
pub mod merge {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{Merge, MergeBindings};
    pub use crate::plan::merge::{MergePlan, MergeProblem, MergeShape};
}

/// What attention never stores, for analysis: scores or weights of chosen heads, and statistics of
/// every row.
pub mod scores {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{Scores, ScoresBindings};
    pub use crate::kernels::scores::RowStatistics;
    pub use crate::plan::scores::{ComponentOrder, Output, ScoresPlan, ScoresProblem, ScoresShape};
}

/// Linear attention with RoPE (RoFormer, arXiv 2104.09864, eq. 19), full, or causal with a state to
/// go on from.
pub mod linear_attention {
    pub use crate::features::{Directions, RandomFeatures};
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{LinearAttention, LinearAttentionBindings, RandomFeatureBindings, State};
    pub use crate::plan::FeatureHook;
    pub use crate::plan::linear_attention::{
        FeatureMap, LinearAttentionPlan, LinearAttentionProblem, LinearAttentionShape,
    };
}

/// The gradients of linear attention.
pub mod linear_attention_backward {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{LinearAttentionBackward, LinearAttentionBackwardBindings};
    pub use crate::plan::linear_attention_backward::{
        LinearAttentionBackwardPlan, LinearAttentionBackwardProblem,
    };
}

/// How keys and values are kept between calls: storage types, pages, bytes a token, and what the
/// host can check of a block table before anything runs.
pub mod cache {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::{BlockTable, CacheBindings, CacheTensor};
    pub use crate::plan::cache::{
        CacheFormat, CacheType, ModelKind, ModelShape, Pages, check_room,
    };
}

/// The shaders behind a plan and the dispatches behind a call, for programs that compile or run
/// them by other means: a vendor's compiler, another implementation of WebGPU.
///
/// A plan's `shader()` is the WGSL with its entry point and overrides; the [`Part`]s of a bound
/// call add the workgroups and the buffers. With the feature `serde`, `Shader::to_json` hands a
/// shader to programs in other languages. [`recipe`] has the same without wgpu.
pub mod shader {
    #[cfg(feature = "wgpu")]
    pub use crate::gpu::BoundBuffer;
    pub use crate::plan::{BindingType, Declared, Shader, Wishes};
}

/// Calls for any host, without wgpu: tensors over buffers that the host knows by numbers, checked
/// by the plan, and a [`Recipe`](recipe::Recipe) that says what to dispatch.
///
/// The tensors are the same as everywhere in the crate, over another kind of range:
/// `phasor::attention::AttentionBindings<'a>` is
/// `recipe::AttentionBindings<wgpu::BufferBinding<'a>>`.
pub mod recipe {
    pub use crate::call::{
        Binding, BlockTable, CacheBindings, CacheTensor, CosSin, Entry, Extent, Plan, Positions,
        Problem, Range, Recipe, Resource, Rotation, Step, Tensor,
    };
    pub use crate::kernels::attention::{AttentionBindings, BlockList};
    pub use crate::kernels::attention_backward::{AttentionBackwardBindings, BackwardRotation};
    pub use crate::kernels::decode::DecodeBindings;
    pub use crate::kernels::kv_append::KvAppendBindings;
    pub use crate::kernels::kv_move::KvMoveBindings;
    pub use crate::kernels::linear_attention::{
        LinearAttentionBindings, RandomFeatureBindings, State,
    };
    pub use crate::kernels::linear_attention_backward::LinearAttentionBackwardBindings;
    pub use crate::kernels::merge::MergeBindings;
    pub use crate::kernels::rope::RopeBindings;
    pub use crate::kernels::scores::ScoresBindings;
}
