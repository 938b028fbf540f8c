//! What a linear attention kernel computes, without the sizes that change from call to call.

use super::LinearAttentionPlan;
use crate::plan::{Capabilities, FeatureHook};
use crate::rotary::Pairing;
use crate::{DType, Error, HeadMap, Phase, Result};

/// Which non-negative features φ stand for queries and keys.
#[derive(Debug, Clone)]
pub enum FeatureMap {
    /// elu(x) + 1 of every channel (arXiv 2006.16236, eq. 7; RoFormer's choice). F = D.
    EluPlusOne,
    /// A function of the caller's, of every channel. F = D.
    Custom(FeatureHook),
    /// Positive random features of FAVOR+ (arXiv 2009.14794, lemma 1): with x' = x·D^(−1/4),
    /// `exp(ω_f·x' − |x'|²/2 + c)/√F`. In the mean over ω, φ(q)·φ(k) is e^(q·k/√D) times e^c of
    /// both sides, so without a rotation the result estimates softmax attention. The ω are a
    /// [`RandomFeatures`](crate::linear_attention::RandomFeatures) matrix, bound at every call.
    Favor {
        /// F, a multiple of 4 up to 256.
        features: u32,
        /// c of every key. It cancels between numerator and denominator, as long as calls that
        /// share a state agree on it; it keeps long keys from underflowing: about the largest
        /// |k|²/(2√D) serves. Queries choose their own c, which makes the largest exponent 0.
        key_offset: f32,
    },
}

impl FeatureMap {
    fn key(&self) -> (Option<&FeatureHook>, Option<(u32, u32)>) {
        match self {
            Self::EluPlusOne => (None, None),
            Self::Custom(hook) => (Some(hook), None),
            // Plus zero: of zeros there is one.
            &Self::Favor { features, key_offset } => {
                (None, Some((features, (key_offset + 0.0).to_bits())))
            }
        }
    }
}

impl PartialEq for FeatureMap {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for FeatureMap {}

impl core::hash::Hash for FeatureMap {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// RoFormer linear attention (arXiv 2104.09864, eq. 19). Fill in what differs from
/// [`LinearAttentionProblem::new`].
///
/// ```text
/// out_i = Σ_j (R_i φ(q_i))ᵀ (R_j φ(k_j)) v_j / Σ_j φ(q_i)ᵀ φ(k_j)      j ≤ i if causal, else all j
/// q [B, H_q, S_q, D]   k [B, H_kv, S_k, D]   v [B, H_kv, S_k, D_v]   out [B, H_out, S_q, D_v]
/// ```
///
/// The rotation R turns the *features*, after φ and in the numerator alone: weights need not add up
/// to 1 and may be negative, the denominator is a sum of positive numbers. There is no scale and no
/// ε. Query head h reads kv head `h / (H_q / H_kv)`.
///
/// A phase other than real turns the rotated features of a query by −φ, as RoPE++ turns queries,
/// and leaves the denominator: an extension of this crate's, in no paper. The features that do not
/// rotate enter with the factor cos φ.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinearAttentionProblem {
    /// Output heads, and the query head and phase of each.
    pub heads: HeadMap,
    /// Heads of K and V; divides the query heads.
    pub kv_heads: u32,
    /// D: channels of q and k, a multiple of 4 up to 256.
    pub head_dim: u32,
    /// D_v: channels of v and out, a multiple of 4 up to 256.
    pub value_dim: u32,
    /// φ.
    pub feature_map: FeatureMap,
    /// Features that rotate, even, at most F; 0: none, and no table is bound.
    pub rotary_dim: u32,
    /// Which features are a pair.
    pub pairing: Pairing,
    /// Whether query i sees only the keys up to i.
    pub causal: bool,
    /// Whether a call starts from a bound state, and leaves the state after its keys there.
    pub state: bool,
    /// Storage of q.
    pub q_dtype: DType,
    /// Storage of k and v.
    pub kv_dtype: DType,
    /// Storage of the output. Features, state and workspace are f32 always.
    pub out_dtype: DType,
}

impl LinearAttentionProblem {
    /// Causal, elu + 1, half-split pairs over all of D, D_v = D, in f32, without a state.
    pub fn new(heads: HeadMap, kv_heads: u32, head_dim: u32) -> Self {
        Self {
            heads,
            kv_heads,
            head_dim,
            value_dim: head_dim,
            feature_map: FeatureMap::EluPlusOne,
            rotary_dim: head_dim,
            pairing: Pairing::Half,
            causal: true,
            state: false,
            q_dtype: DType::F32,
            kv_dtype: DType::F32,
            out_dtype: DType::F32,
        }
    }

    /// Decides how the problem runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits, [`Error::Limit`] where the device has too
    /// little room.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<LinearAttentionPlan> {
        LinearAttentionPlan::new(self, capabilities)
    }

    /// F: features of a query or key.
    pub fn feature_dim(&self) -> u32 {
        match self.feature_map {
            FeatureMap::EluPlusOne | FeatureMap::Custom(_) => self.head_dim,
            FeatureMap::Favor { features, .. } => features,
        }
    }

    /// Whether features are computed in a pass of their own.
    pub(crate) fn is_favor(&self) -> bool {
        matches!(self.feature_map, FeatureMap::Favor { .. })
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |what, needed, got: String| Err(Error::Invalid { what, needed, got });
        let dims = [
            ("head_dim", self.head_dim),
            ("value_dim", self.value_dim),
            ("features", self.feature_dim()),
        ];
        for (what, dim) in dims {
            if dim == 0 || dim > 256 || !dim.is_multiple_of(4) {
                return invalid(what, "a multiple of 4 from 4 to 256", dim.to_string());
            }
        }
        let q_heads = self.heads.q_heads();
        if self.kv_heads == 0 || !q_heads.is_multiple_of(self.kv_heads) {
            let got = format!("{} for {q_heads} query heads", self.kv_heads);
            return invalid("kv_heads", "a divisor of the query heads", got);
        }
        if self.rotary_dim > self.feature_dim() {
            let got = format!("{} of {}", self.rotary_dim, self.feature_dim());
            return invalid("rotary_dim", "at most the number of features", got);
        }
        self.pairing.check(self.rotary_dim)?;
        let turned = self.heads.heads().iter().any(|head| head.phase != Phase::REAL);
        if self.rotary_dim == 0 && turned {
            return invalid("rotary_dim", "above 0 where a phase is not real", "0".into());
        }
        if let FeatureMap::Favor { key_offset, .. } = self.feature_map
            && !key_offset.is_finite()
        {
            return invalid("key_offset", "finite", key_offset.to_string());
        }
        Ok(())
    }
}
