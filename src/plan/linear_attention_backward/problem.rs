//! What the backward pass of linear attention computes.

use super::LinearAttentionBackwardPlan;
use crate::plan::Capabilities;
use crate::plan::linear_attention::{FeatureMap, LinearAttentionProblem};
use crate::{Error, Result};

/// The gradients of linear attention with respect to q, k and v, in f32, and to the state that a
/// call starts from.
///
/// ```text
/// e_i = dO_i / den_i      r_i = −e_i · out_i      S, z: the state at a row
/// dφ(q)_i = R_iᵀ S_i e_i + r_i z_i                          dq = dφ(q) φ'(q)
/// dφ(k)_j = R_jᵀ T_j v_j + Σ_i r_i φ(q_i)                   dk = dφ(k) φ'(k)
/// dv_j    = T_jᵀ R_jφ(k_j)                                  T_j = Σ_i R_iφ(q_i) e_iᵀ
/// ```
///
/// Sums over i are over the queries that see key j. The work grows with the sequence, as that of
/// the forward pass does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinearAttentionBackwardProblem {
    /// The call that is differentiated. With a state, its gradient is taken as well: from that of
    /// the state after the call to that of the state before it.
    ///
    /// elu + 1 alone has gradients: other feature maps are refused. Store `out` in f32 for
    /// training: f16 moves r, and with it dq and dk.
    pub attention: LinearAttentionProblem,
}

impl LinearAttentionBackwardProblem {
    /// The gradients of this call.
    pub fn new(attention: LinearAttentionProblem) -> Self {
        Self { attention }
    }

    /// Decides how the problem runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits and for feature maps that have no gradient
    /// here, [`Error::Limit`] where the device has too little room.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<LinearAttentionBackwardPlan> {
        LinearAttentionBackwardPlan::new(self, capabilities)
    }

    pub(super) fn check(&self) -> Result<()> {
        self.attention.check()?;
        let got = match &self.attention.feature_map {
            FeatureMap::EluPlusOne => return Ok(()),
            FeatureMap::Custom(_) => "the caller's feature map, whose derivative is not known",
            FeatureMap::Favor { .. } => "FAVOR+, whose random features have no gradient here",
        };
        Err(Error::Invalid { what: "feature_map", needed: "elu + 1", got: got.into() })
    }
}
