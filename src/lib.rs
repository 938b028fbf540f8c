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

mod dtype;
mod error;
mod features;
mod gpu;
mod heads;
mod kernels;
pub mod layers;
mod layout;
pub mod numerics;
pub mod oracle;
mod phase;
mod plan;
#[cfg(test)]
mod reflect;
pub mod rotary;
pub mod selftest;
#[cfg(not(target_arch = "wasm32"))]
pub mod tuner;
mod uniform;

pub use dtype::DType;
pub use error::{Error, Result};
pub use gpu::{Compiler, Dispatch, Part, Tensor};
pub use heads::HeadMap;
pub use layout::Layout;
pub use phase::{OutputHead, Phase};
pub use plan::attention::Bias;
pub use plan::{Budget, Capabilities, Cost, MaskHook, ScoreHook};
#[cfg(not(target_arch = "wasm32"))]
pub use selftest::selftest;
pub use wgpu;

/// Attention of many query rows over their keys, prefill above all.
///
/// [`AttentionProblem`](attention::AttentionProblem) says what to compute,
/// [`AttentionPlan`](attention::AttentionPlan) how, [`Attention`](attention::Attention) is the
/// compiled kernel. Nothing of size S_q × S_k is stored. Real and imaginary heads of RoPE++ come
/// from one pass over K and V.
pub mod attention {
    pub use crate::kernels::attention::{Attention, AttentionBindings, BlockList};
    pub use crate::plan::attention::{
        Alignment, AttentionPlan, AttentionProblem, AttentionShape, Cut, CutPart, Keys, Outputs,
        Queries, Tile,
    };
}

/// Attention of 1 to 16 query rows over a cache, its keys split over workgroups and merged.
pub mod decode {
    pub use crate::kernels::decode::{Decode, DecodeBindings};
    pub use crate::plan::decode::{DecodePlan, DecodeProblem, DecodeShape, Tile};
}

/// Rotation of queries and keys by their positions (RoPE), in one dispatch.
pub mod rope {
    pub use crate::kernels::rope::{Rope, RopeBindings};
    pub use crate::plan::rope::{Direction, RopePlan, RopeProblem, RopeShape};
}

/// New rows into a cache: rotated, converted and written in one dispatch.
pub mod kv_append {
    pub use crate::kernels::kv_append::{KvAppend, KvAppendBindings};
    pub use crate::plan::kv_append::{KvAppendPlan, KvAppendProblem, KvAppendShape};
}

/// Rows moved within a cache: context shift, with keys turned by the distance, and copies of a
/// prefix.
pub mod kv_move {
    pub use crate::kernels::kv_move::{KvMove, KvMoveBindings};
    pub use crate::plan::kv_move::{KvMovePlan, KvMoveProblem, Move, check_moves};
}

/// Attention over parts of the keys, merged into attention over all of them by their log-sum-exps.
pub mod merge {
    pub use crate::kernels::merge::{Merge, MergeBindings};
    pub use crate::plan::merge::{MergePlan, MergeProblem, MergeShape};
}

/// What attention never stores, for analysis: scores or weights of chosen heads, and statistics of
/// every row.
pub mod scores {
    pub use crate::kernels::scores::{RowStatistics, Scores, ScoresBindings};
    pub use crate::plan::scores::{ComponentOrder, Output, ScoresPlan, ScoresProblem, ScoresShape};
}

/// Linear attention with RoPE (RoFormer, arXiv 2104.09864, eq. 19), full, or causal with a state to
/// go on from.
pub mod linear_attention {
    pub use crate::features::{Directions, RandomFeatures};
    pub use crate::kernels::linear_attention::{
        LinearAttention, LinearAttentionBindings, RandomFeatureBindings, State,
    };
    pub use crate::plan::FeatureHook;
    pub use crate::plan::linear_attention::{
        FeatureMap, LinearAttentionPlan, LinearAttentionProblem, LinearAttentionShape,
    };
}

/// How keys and values are kept between calls: storage types, pages, bytes a token, and what the
/// host can check of a block table before anything runs.
pub mod cache {
    pub use crate::gpu::{BlockTable, CacheBindings, CacheTensor};
    pub use crate::plan::cache::{
        CacheFormat, CacheType, ModelKind, ModelShape, Pages, check_room,
    };
}

/// The shaders behind a plan and the dispatches behind a call, for programs that compile or run them
/// by other means: a vendor's compiler, another implementation of WebGPU.
///
/// A plan's `shader()` is the WGSL with its entry point and overrides; [`Part::step`] of a bound call
/// adds the workgroups and the buffers. With the feature `serde`, `Shader::to_json` hands a shader
/// to programs in other languages.
pub mod shader {
    pub use crate::gpu::{BoundBuffer, Step};
    pub use crate::plan::Shader;
}
