//! What the backward pass of an attention call computes.

use super::AttentionBackwardPlan;
use crate::plan::attention::{AttentionProblem, Keys, Outputs};
use crate::plan::channels::Channels;
use crate::plan::rules::Bias;
use crate::plan::{Capabilities, Precision};
use crate::{Error, Phase, Result};

/// The gradients of an attention call with respect to q, k and v, and of its sinks and bias where
/// they are asked for. Fill in what differs from [`AttentionBackwardProblem::new`].
///
/// ```text
/// δ = rowsum(dO ∘ O) − dLSE    dP = dO Vᵀ    dS = P ∘ (dP − δ)
/// Z = scale · Σ e^{iφ} dS over a query head's outputs
/// dQ = Z K    dK = conj(Z)ᵀ Q    dV = Pᵀ dO      pairs as complex numbers, K and Q rotated
/// ```
///
/// P is recomputed from q, k and the log-sum-exp of the forward pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttentionBackwardProblem {
    /// The call that is differentiated. It must write its log-sum-exp
    /// ([`AttentionProblem::lse`]); whether this one says so is not read.
    ///
    /// Not differentiated, and refused: a `score_mod`, block lists, caches, split outputs, heads
    /// above 256 channels. A `resumable` forward pass has the same gradients; set it to false here.
    ///
    /// Store `out` in f32 for training: f16 moves δ, and with it dq and dk, by about 10⁻³.
    pub attention: AttentionProblem,
    /// Whether dq and dk are with respect to un-rotated queries and keys: turned back by the table
    /// on their way out, and multiplied by its scale. Otherwise they are with respect to the
    /// rotated ones, also where [`AttentionProblem::rotate_q`] rotates q in the kernel.
    pub unrotate: bool,
    /// Whether the loss reads the log-sum-exp, and so has a gradient for it.
    pub d_lse: bool,
    /// Whether the sinks have a gradient.
    pub d_sinks: bool,
    /// Whether the additive bias has a gradient. It takes one number a query, key and output head.
    pub d_bias: bool,
    /// Position streams of the cos/sin table: 1, or as many as its axes read (M-RoPE: 3).
    pub position_streams: u32,
}

impl AttentionBackwardProblem {
    /// Gradients of q, k and v alone, with respect to un-rotated vectors where the call rotates q.
    pub fn new(attention: AttentionProblem) -> Self {
        Self {
            unrotate: attention.rotate_q,
            attention,
            d_lse: false,
            d_sinks: false,
            d_bias: false,
            position_streams: 1,
        }
    }

    /// Decides how the problem runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits and for what has no gradient here,
    /// [`Error::Limit`] where the device has no room for any plan.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<AttentionBackwardPlan> {
        AttentionBackwardPlan::new(self, capabilities)
    }

    /// Whether a cos/sin table is read.
    pub(crate) fn turns(&self) -> bool {
        self.unrotate || self.attention.rotate_q
    }

    fn have_pairs(&self) -> bool {
        self.turns() || self.attention.heads.heads().iter().any(|h| h.phase != Phase::REAL)
    }

    pub(super) fn channels(&self) -> Channels {
        let p = &self.attention;
        Channels::new(&p.heads, self.turns(), p.head_dim, p.rotary_dim, p.pairing)
    }

    /// How q, k and their gradients lie: interleaved, or not.
    pub(super) fn interleaved(&self) -> [(&'static str, bool); 3] {
        let pairing = self.attention.pairing;
        let [read, written] = [pairing.reads_interleaved(), pairing.writes_interleaved()];
        let before = |unrotated: bool| if unrotated { read } else { written };
        [
            ("Q_INTERLEAVED", self.have_pairs() && before(self.attention.rotate_q)),
            ("K_INTERLEAVED", self.have_pairs() && written),
            ("GRAD_INTERLEAVED", self.have_pairs() && before(self.unrotate)),
        ]
    }

    pub(super) fn check(&self) -> Result<()> {
        let p = &self.attention;
        p.check()?;
        Channels::check(&p.heads, self.turns(), p.head_dim, p.rotary_dim, p.pairing)?;
        let missing = [
            ("head_dim", p.head_dim > 256, "at most 256: larger heads have no gradients"),
            ("value_dim", p.value_dim > 256, "at most 256: larger heads have no gradients"),
            ("score_mod", p.score_mod.is_some(), "none: its derivative is not known"),
            (
                "precision",
                p.precision != Precision::F32,
                "F32: gradients do not run on matrix units",
            ),
            ("block_list", p.block_list, "false: gradients of lists of tiles are missing"),
            (
                "keys",
                matches!(p.keys, Keys::Cache(_)),
                "batched or ragged: of caches there are no gradients",
            ),
            (
                "outputs",
                p.outputs == Outputs::Split,
                "merged: of split outputs there are no gradients",
            ),
            ("resumable", p.resumable, "false: the backward pass is cut between tiles alone"),
            ("d_sinks", self.d_sinks && p.sinks.is_empty(), "false without sinks"),
            (
                "d_bias",
                self.d_bias && p.bias != Some(Bias::Additive),
                "false without an additive bias",
            ),
        ];
        for (what, refused, needed) in missing {
            if refused {
                return Err(Error::Invalid { what, needed, got: "asked for".into() });
            }
        }
        if !(1..=4).contains(&self.position_streams) {
            let got = self.position_streams.to_string();
            return Err(Error::Invalid { what: "position_streams", needed: "1 to 4", got });
        }
        Ok(())
    }
}
