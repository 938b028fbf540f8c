//! What a decode kernel computes.

use super::DecodePlan;
use crate::bits::eq_by_bits;
use crate::plan::cache::CacheFormat;
use crate::plan::channels::Channels;
use crate::plan::head_rows::HeadRows;
use crate::plan::rules::{Bias, ScoreRules};
use crate::plan::{Capabilities, MaskHook, ScoreHook};
use crate::rotary::Pairing;
use crate::{DType, Error, HeadMap, Result};

/// Attention of the newest 1 to 16 rows of each sequence over its cache, those rows included: one
/// token of generation, or a speculative draft. Fill in what differs from [`DecodeProblem::new`].
///
/// ```text
/// q [B, H_q, S_q, D]   out [B, H_out, S_q, D_v]   K, V: the cache
/// kv_lens u32 [B]: rows of each sequence in the cache, the new ones included, on the device
/// row i of sequence b has position p = kv_lens[b] − S_q + i
///
/// s = scale · (cos φ · S_re + sin φ · S_im)
/// then, in this order and where asked for: s = c tanh(s / c), the softcap    s − slope · |j − p|,
/// ALiBi    s + bias    score_mod    hidden unless |j − p| < window, j ≤ p (causal) and mask_mod
/// out = Σ e^s_j V_j / (e^sink + Σ e^s_j)    lse = ln (e^sink + Σ e^s_j)
/// ```
///
/// Prefixes of a prefix-LM need nothing here: a row sees all that is before it.
/// Query head h reads kv head `h / (H_q / H_kv)`; K and V are read once for all query heads of a kv
/// head, all rows and both components, up to 16 softmax states a workgroup.
#[derive(Debug, Clone)]
pub struct DecodeProblem {
    /// Output heads, and the query head and phase of each.
    pub heads: HeadMap,
    /// The cache; its kv heads divide the query heads.
    pub cache: CacheFormat,
    /// Channels that rotate, even, at most D. Read only where a phase other than real or the
    /// rotation of q asks for pairs.
    pub rotary_dim: u32,
    /// Where the pairs lie. With [`Pairing::InterleavedToHalf`] the cache holds K half-split, and q
    /// comes so as well unless it is rotated here.
    pub pairing: Pairing,
    /// Whether q comes un-rotated and is rotated on its way into the kernel.
    pub rotate_q: bool,
    /// Whether a row sees no row after it. Without, all rows of a call see each other.
    pub causal: bool,
    /// Sliding window: a row sees only keys less than `window` away from its own place: causal, the
    /// `window` keys that end there, otherwise `window − 1` after it as well, as in prefill. Keys
    /// before the window are never read. In a rolling cache, the window and the rows of a call must
    /// fit the capacity: `window + S_q − 1 <= capacity`.
    pub window: Option<u32>,
    /// Factor on every score before the softmax, finite.
    pub softmax_scale: f32,
    /// Softcap c > 0 (Gemma 2): every scaled score s becomes `c tanh(s / c)`, before the masks.
    pub softcap: Option<f32>,
    /// ALiBi slopes, one an output head, or none: `−slope · |j − p|` is added to the scaled score,
    /// after the softcap.
    pub alibi_slopes: Vec<f32>,
    /// A bias or mask tensor `[B, H_out, S_q, capacity]`, applied after ALiBi; its last index is
    /// the key's slot, which is its place in its sequence unless the cache rolls.
    pub bias: Option<Bias>,
    /// The caller's modification of scores, after the bias. Its `query` is p, causal or not.
    pub score_mod: Option<ScoreHook>,
    /// The caller's mask, beside all others.
    pub mask_mod: Option<MaskHook>,
    /// Attention sinks (gpt-oss), one logit an output head, or none: each joins the denominator and
    /// the log-sum-exp of its head as a key without a value would, after all else. −∞ is no sink.
    pub sinks: Vec<f32>,
    /// Storage of q.
    pub q_dtype: DType,
    /// Storage of the output.
    pub out_dtype: DType,
    /// Whether the natural log-sum-exp of every output row is written.
    pub lse: bool,
    /// The most sequences that a call has.
    pub max_batch: u32,
    /// The most rows of a sequence that a call has, from 1 to 16.
    pub max_seq_q: u32,
    /// The most keys that a sequence is expected to have. It decides about splits, and so about
    /// speed; longer sequences are right as well.
    pub max_kv: u32,
}

eq_by_bits! {
    DecodeProblem {
        heads, cache, rotary_dim, pairing, rotate_q, causal, window, bias, score_mod, mask_mod,
        q_dtype, out_dtype, lse, max_batch, max_seq_q, max_kv;
        softmax_scale, softcap, alibi_slopes, sinks,
    }
}

impl DecodeProblem {
    /// The largest call that is planned for.
    pub fn largest(&self) -> DecodeShape {
        DecodeShape { batch: self.max_batch, seq_q: self.max_seq_q }
    }

    /// Causal decode of one row a sequence, in f32, all of D rotated, half-split, q rotated before
    /// the call, scale `D^(−1/2)`, no window, softcap, sinks or log-sum-exp.
    pub fn new(heads: HeadMap, cache: CacheFormat, max_batch: u32, max_kv: u32) -> Self {
        Self {
            heads,
            cache,
            rotary_dim: cache.head_dim,
            pairing: Pairing::Half,
            rotate_q: false,
            causal: true,
            window: None,
            softmax_scale: (f64::from(cache.head_dim).powf(-0.5)) as f32,
            softcap: None,
            alibi_slopes: Vec::new(),
            bias: None,
            score_mod: None,
            mask_mod: None,
            sinks: Vec::new(),
            q_dtype: DType::F32,
            out_dtype: DType::F32,
            lse: false,
            max_batch,
            max_seq_q: 1,
            max_kv,
        }
    }

    /// Decides how the problem runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits, [`Error::Limit`] where the device has no
    /// room for any plan.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<DecodePlan> {
        DecodePlan::new(self, capabilities)
    }

    /// How the channels of q and k are cut.
    pub(super) fn channels(&self) -> Channels {
        let Self { rotate_q, rotary_dim, pairing, .. } = *self;
        Channels::new(&self.heads, rotate_q, self.cache.head_dim, rotary_dim, pairing)
    }

    /// What is done to scores.
    pub(crate) fn rules(&self) -> ScoreRules<'_> {
        let heads_out = self.heads.heads().len() as u32;
        let heads = [self.heads.q_heads(), self.cache.kv_heads, heads_out];
        ScoreRules {
            window: self.window,
            softcap: self.softcap,
            alibi_slopes: &self.alibi_slopes,
            bias: self.bias,
            score_mod: self.score_mod.as_ref(),
            mask_mod: self.mask_mod.as_ref(),
            sinks: &self.sinks,
            ..ScoreRules::new(heads, self.softmax_scale, self.causal)
        }
    }

    /// The table of output heads, as many rows for each kv head.
    pub(super) fn head_rows(&self) -> HeadRows {
        let rules = self.rules();
        HeadRows::new(&self.heads, &rules).padded(&rules)
    }

    pub(super) fn check(&self) -> Result<()> {
        self.cache.check()?;
        let invalid = |what, needed, got: String| Err(Error::Invalid { what, needed, got });
        self.rules().check()?;
        if self.max_seq_q == 0 || self.max_seq_q > 16 {
            return invalid("max_seq_q", "from 1 to 16", self.max_seq_q.to_string());
        }
        let Self { rotate_q, rotary_dim, pairing, .. } = *self;
        Channels::check(&self.heads, rotate_q, self.cache.head_dim, rotary_dim, pairing)
    }
}

/// Sizes that change from call to call, within the problem's maxima.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecodeShape {
    /// B: sequences.
    pub batch: u32,
    /// S_q: rows of each sequence, the last of which stands at its last key: row i of a sequence of
    /// n keys has place n − S_q + i among them. A sequence may have fewer keys than the call has
    /// rows. Its first rows have negative places then, and mask, window, ALiBi, hooks and rotation
    /// take them as they are: under the causal mask such rows see no key.
    pub seq_q: u32,
}

impl DecodeShape {
    /// Sequences and query rows of each.
    pub fn new(batch: u32, seq_q: u32) -> Self {
        Self { batch, seq_q }
    }
}
