//! What a call of linear attention binds.

use crate::call::{Positions, Rotation, Tensor};
#[cfg(doc)]
use crate::plan::linear_attention::{FeatureMap, LinearAttentionPlan};

/// The tensors of one call.
#[derive(Debug, Clone)]
pub struct LinearAttentionBindings<B> {
    /// `[B, H_q, S_q, D]`, not rotated, read. Strides and offset are multiples of 4 elements, here
    /// and below.
    pub q: Tensor<B>,
    /// `[B, H_kv, S_k, D]`, not rotated, read.
    pub k: Tensor<B>,
    /// `[B, H_kv, S_k, D_v]`, read.
    pub v: Tensor<B>,
    /// `[B, H_out, S_q, D_v]`, written.
    pub out: Tensor<B>,
    /// [`LinearAttentionPlan::workspace_bytes`] of scratch memory.
    pub workspace: B,
    /// Where features rotate: a table of `rotary_dim / 2` pairs (its configuration has the number
    /// of features for its `head_dim`), and the positions of the keys, with a causal mask of the
    /// queries too.
    pub rotation: Option<Rotation<B>>,
    /// Positions of the queries, where there is no causal mask and they are others.
    pub q_positions: Option<Positions<B>>,
    /// The state, where the problem has one.
    pub state: Option<State<B>>,
    /// For [`FeatureMap::Favor`].
    pub random: Option<RandomFeatureBindings<B>>,
}

impl<B> LinearAttentionBindings<B> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(q: Tensor<B>, k: Tensor<B>, v: Tensor<B>, out: Tensor<B>, workspace: B) -> Self {
        Self {
            q,
            k,
            v,
            out,
            workspace,
            rotation: None,
            q_positions: None,
            state: None,
            random: None,
        }
    }
}

/// What the keys so far leave to those behind them: read where a call resumes, always written.
/// Copy it to go on from one point twice.
#[derive(Debug, Clone)]
pub struct State<B> {
    /// S = Σ (R φ(k)) vᵀ, f32 `[B, H_kv, F, D_v]` without gaps.
    pub s: B,
    /// z = Σ φ(k), f32 `[B, H_kv, F]` without gaps.
    pub z: B,
}

/// What random features need beside the tensors.
#[derive(Debug, Clone)]
pub struct RandomFeatureBindings<B> {
    /// The bytes of a [`RandomFeatures`](crate::linear_attention::RandomFeatures), f32 `[D, F]`,
    /// read.
    pub projection: B,
    /// [`LinearAttentionPlan::features_bytes`] of scratch memory, in a buffer of its own.
    pub features: B,
}
