//! What a backward call of linear attention binds.

use crate::call::{Positions, Rotation, Tensor};
use crate::kernels::linear_attention::State;
#[cfg(doc)]
use crate::plan::linear_attention_backward::LinearAttentionBackwardPlan;

/// The tensors of one backward call. Strides and offsets of q, k, v, out and `d_out` are multiples
/// of 4 elements; `d_out` may be broadcast by strides of 0. Of the gradients, strides are any.
#[derive(Debug, Clone)]
pub struct LinearAttentionBackwardBindings<B> {
    /// As in the forward pass, `[B, H_q, S_q, D]`; read.
    pub q: Tensor<B>,
    /// As in the forward pass, `[B, H_kv, S_k, D]`; read.
    pub k: Tensor<B>,
    /// As in the forward pass, `[B, H_kv, S_k, D_v]`; read.
    pub v: Tensor<B>,
    /// What the forward pass wrote, `[B, H_out, S_q, D_v]`; read.
    pub out: Tensor<B>,
    /// ∂loss/∂out, of shape and type of `out`; read.
    pub d_out: Tensor<B>,
    /// ∂loss/∂q in f32, of the shape of q; written.
    pub dq: Tensor<B>,
    /// ∂loss/∂k in f32, of the shape of k; written.
    pub dk: Tensor<B>,
    /// ∂loss/∂v in f32, of the shape of v; written.
    pub dv: Tensor<B>,
    /// [`LinearAttentionBackwardPlan::workspace_bytes`] of scratch memory; read and written.
    pub workspace: B,
    /// As in the forward pass; read.
    pub rotation: Option<Rotation<B>>,
    /// As in the forward pass; read.
    pub q_positions: Option<Positions<B>>,
    /// The state before the forward call, where the problem has one; read where the call resumes.
    /// The forward pass replaces its state, so keep a copy.
    pub state: Option<State<B>>,
    /// ∂loss/∂state where the problem has one: of the state after the call, read (zeros where
    /// nothing goes on from it), and replaced by that of the state before the call.
    pub d_state: Option<State<B>>,
}

impl<B> LinearAttentionBackwardBindings<B> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(
        [q, k, v]: [Tensor<B>; 3],
        out: Tensor<B>,
        d_out: Tensor<B>,
        [dq, dk, dv]: [Tensor<B>; 3],
        workspace: B,
    ) -> Self {
        Self {
            q,
            k,
            v,
            out,
            d_out,
            dq,
            dk,
            dv,
            workspace,
            rotation: None,
            q_positions: None,
            state: None,
            d_state: None,
        }
    }
}
