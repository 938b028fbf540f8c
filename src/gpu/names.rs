//! The names that programs on wgpu use: kernels, and what calls are made of over wgpu's buffers.

use super::Kernel;
use crate::{call, kernels, plan};

type Range<'a> = wgpu::BufferBinding<'a>;

/// [`recipe::Tensor`](crate::recipe::Tensor) over wgpu's buffers.
pub type Tensor<'a> = call::Tensor<Range<'a>>;
/// [`recipe::CacheTensor`](crate::recipe::CacheTensor) over wgpu's buffers.
pub type CacheTensor<'a> = call::CacheTensor<Range<'a>>;
/// [`recipe::BlockTable`](crate::recipe::BlockTable) over wgpu's buffers.
pub type BlockTable<'a> = call::BlockTable<Range<'a>>;
/// [`recipe::CacheBindings`](crate::recipe::CacheBindings) over wgpu's buffers.
pub type CacheBindings<'a> = call::CacheBindings<Range<'a>>;
/// [`recipe::CosSin`](crate::recipe::CosSin) over wgpu's buffers.
pub type CosSin<'a> = call::CosSin<Range<'a>>;
/// [`recipe::Positions`](crate::recipe::Positions) over wgpu's buffers.
pub type Positions<'a> = call::Positions<Range<'a>>;
/// [`recipe::Rotation`](crate::recipe::Rotation) over wgpu's buffers.
pub type Rotation<'a> = call::Rotation<Range<'a>>;
/// [`recipe::AttentionBindings`](crate::recipe::AttentionBindings) over wgpu's buffers.
pub type AttentionBindings<'a> = kernels::attention::AttentionBindings<Range<'a>>;
/// [`recipe::BlockList`](crate::recipe::BlockList) over wgpu's buffers.
pub type BlockList<'a> = kernels::attention::BlockList<Range<'a>>;
/// [`recipe::AttentionBackwardBindings`](crate::recipe::AttentionBackwardBindings) over wgpu's
/// buffers.
pub type AttentionBackwardBindings<'a> =
    kernels::attention_backward::AttentionBackwardBindings<Range<'a>>;
/// [`recipe::BackwardRotation`](crate::recipe::BackwardRotation) over wgpu's buffers.
pub type BackwardRotation<'a> = kernels::attention_backward::BackwardRotation<Range<'a>>;
/// [`recipe::DecodeBindings`](crate::recipe::DecodeBindings) over wgpu's buffers.
pub type DecodeBindings<'a> = kernels::decode::DecodeBindings<Range<'a>>;
/// [`recipe::RopeBindings`](crate::recipe::RopeBindings) over wgpu's buffers.
pub type RopeBindings<'a> = kernels::rope::RopeBindings<Range<'a>>;
/// [`recipe::KvAppendBindings`](crate::recipe::KvAppendBindings) over wgpu's buffers.
pub type KvAppendBindings<'a> = kernels::kv_append::KvAppendBindings<Range<'a>>;
/// [`recipe::KvMoveBindings`](crate::recipe::KvMoveBindings) over wgpu's buffers.
pub type KvMoveBindings<'a> = kernels::kv_move::KvMoveBindings<Range<'a>>;
/// [`recipe::MergeBindings`](crate::recipe::MergeBindings) over wgpu's buffers.
pub type MergeBindings<'a> = kernels::merge::MergeBindings<Range<'a>>;
/// [`recipe::ScoresBindings`](crate::recipe::ScoresBindings) over wgpu's buffers.
pub type ScoresBindings<'a> = kernels::scores::ScoresBindings<Range<'a>>;
/// [`recipe::LinearAttentionBindings`](crate::recipe::LinearAttentionBindings) over wgpu's buffers.
pub type LinearAttentionBindings<'a> =
    kernels::linear_attention::LinearAttentionBindings<Range<'a>>;
/// [`recipe::State`](crate::recipe::State) over wgpu's buffers.
pub type State<'a> = kernels::linear_attention::State<Range<'a>>;
/// [`recipe::RandomFeatureBindings`](crate::recipe::RandomFeatureBindings) over wgpu's buffers.
pub type RandomFeatureBindings<'a> = kernels::linear_attention::RandomFeatureBindings<Range<'a>>;
/// [`recipe::LinearAttentionBackwardBindings`](crate::recipe::LinearAttentionBackwardBindings) over
/// wgpu's buffers.
pub type LinearAttentionBackwardBindings<'a> =
    kernels::linear_attention_backward::LinearAttentionBackwardBindings<Range<'a>>;

/// Fused attention, compiled.
pub type Attention = Kernel<plan::attention::AttentionPlan>;
/// Decode, compiled.
pub type Decode = Kernel<plan::decode::DecodePlan>;
/// A rotation, compiled.
pub type Rope = Kernel<plan::rope::RopePlan>;
/// An append to a cache, compiled.
pub type KvAppend = Kernel<plan::kv_append::KvAppendPlan>;
/// A move of cache rows, compiled.
pub type KvMove = Kernel<plan::kv_move::KvMovePlan>;
/// A merge, compiled.
pub type Merge = Kernel<plan::merge::MergePlan>;
/// Scores and their statistics, compiled.
pub type Scores = Kernel<plan::scores::ScoresPlan>;
/// Linear attention, compiled.
pub type LinearAttention = Kernel<plan::linear_attention::LinearAttentionPlan>;
/// The backward pass of attention, compiled.
pub type AttentionBackward = Kernel<plan::attention_backward::AttentionBackwardPlan>;
/// The backward pass of linear attention, compiled.
pub type LinearAttentionBackward =
    Kernel<plan::linear_attention_backward::LinearAttentionBackwardPlan>;
