//! What an attention kernel computes, without the sizes that change from call to call.

use super::{AttentionPlan, MatrixTile};
use crate::bits::eq_by_bits;
use crate::plan::cache::{CacheFormat, CacheType};
use crate::plan::channels::Channels;
use crate::plan::head_rows::HeadRows;
use crate::plan::rules::{Bias, ScoreRules};
use crate::plan::{Capabilities, MaskHook, Precision, ScoreHook};
use crate::rotary::Pairing;
use crate::{DType, Error, HeadMap, Result};

/// Where the two components of a query head are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outputs {
    /// One tensor `[B, H_out, S_q, D_v]`, heads in the order of the [`HeadMap`]: for RoPE++ this
    /// is re0, im0, re1, im1, … as the authors stack them.
    Merged,
    /// Two tensors `[B, H_q, S_q, D_v]`, the first output head of each query head in one, the
    /// second in the other. Needs exactly two output heads a query head.
    Split,
}

/// How the queries of the sequences lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queries {
    /// `[B, H_q, S_q, D]`: each sequence has S_q queries.
    Batched,
    /// `[1, H_q, rows, D]`, one sequence behind the other: sequence b has the rows
    /// `cu_seqlens_q[b] .. cu_seqlens_q[b + 1]`, at most S_q of them.
    Ragged,
}

/// How the keys and values of the sequences lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keys {
    /// `[B, H_kv, S_k, D]`: each sequence has room for S_k keys, of which `kv_lens[b]` are there.
    Batched,
    /// `[1, H_kv, rows, D]`, one sequence behind the other, as [`Queries::Ragged`].
    Ragged,
    /// In a cache that appends wrote, of any format: contiguous, paged or rolling, each side in its
    /// own storage. Sequence b has `kv_lens[b]` keys; of a rolling cache the newest ones, as many
    /// as it has room for, are still there.
    Cache(CacheFormat),
}

/// Where the queries of a causal call stand among the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alignment {
    /// At [`AttentionShape::query_offset`](super::AttentionShape), the same in every sequence; by
    /// default the last query stands at slot S_k − 1, padding counted.
    Shape,
    /// The last query of a sequence stands at the last key of this very sequence, as in prefill
    /// and decode over a cache.
    LastKey,
}

/// Attention over rotated keys. Fill in what differs from [`AttentionProblem::new`].
///
/// ```text
/// q [B, H_q, S_q, D]   k [B, H_kv, S_k, D]   v [B, H_kv, S_k, D_v]   out [B, H_out, S_q, D_v]
/// S_re = Qa·Ka + Qb·Kb    S_im = Qb·Ka − Qa·Kb
/// out_φ = softmax(scale · (cos φ S_re + sin φ S_im)) V
/// ```
///
/// (RoPE++, arXiv 2512.07525, matrix form.) Query head h reads kv head `h / (H_q / H_kv)`. The
/// un-rotated tail of a partially rotated head adds its plain dot product to `S_re` alone: turning
/// it by −π/2 has no meaning.
#[derive(Debug, Clone)]
pub struct AttentionProblem {
    /// Output heads, and the query head and phase of each.
    pub heads: HeadMap,
    /// Heads of K and V; divides the query heads.
    pub kv_heads: u32,
    /// D: channels of q and k, a multiple of 8 up to 576.
    pub head_dim: u32,
    /// D_v: channels of v and out, a multiple of 8 up to 512.
    pub value_dim: u32,
    /// Channels that rotate, even, at most `head_dim`. Read only where a phase other than real or
    /// the rotation of q asks for pairs.
    pub rotary_dim: u32,
    /// Where the pairs lie. With [`Pairing::InterleavedToHalf`] K lies half-split, and so does q
    /// unless it is rotated here.
    pub pairing: Pairing,
    /// Whether q comes un-rotated and is rotated on its way into the kernel.
    pub rotate_q: bool,
    /// Whether query i sees only the keys up to `i + query_offset`.
    pub causal: bool,
    /// Sliding window: a query sees only keys less than `window` away from its own place,
    /// `i + query_offset`: causal, the `window` keys that end there (Hugging Face's meaning;
    /// flash-attention's `window_size` is one less), otherwise `window − 1` after it as well
    /// (ModernBERT's `local_attention: 128`, 64 on each side, is 65). Key tiles outside of the
    /// window are never read.
    pub window: Option<u32>,
    /// Factor on every score before the softmax, finite.
    pub softmax_scale: f32,
    /// Softcap c > 0 (Gemma 2): every scaled score s becomes `c tanh(s / c)`, before ALiBi and the
    /// masks.
    pub softcap: Option<f32>,
    /// ALiBi slopes, one an output head, or none: `−slope · |j − i − query_offset|` is added to the
    /// scaled score, after the softcap, causal or not.
    pub alibi_slopes: Vec<f32>,
    /// A bias or mask tensor `[B, H_out, S_q, S_k]`, applied after ALiBi. Its last index is the
    /// key's place in its sequence; in a rolling cache, its slot.
    pub bias: Option<Bias>,
    /// The caller's modification of scores, after the bias.
    pub score_mod: Option<ScoreHook>,
    /// The caller's mask, beside all others.
    pub mask_mod: Option<MaskHook>,
    /// Whether a list says which tiles of [`Tile::block_q`](super::Tile::block_q) queries and
    /// [`Tile::block_k`](super::Tile::block_k) keys are visited at all: a mask that hides whole
    /// tiles should not pay for them. Not over a rolling cache, where tiles have no end.
    pub block_list: bool,
    /// Prefix-LM: the first `prefix_lens[b]` places of sequence b see each other's keys, whatever
    /// causal mask and window say (Gemma 3's image tokens, where they come first). Needs the causal
    /// mask; not over a rolling cache, where they would be gone.
    pub prefix: bool,
    /// Attention sinks (gpt-oss), one logit an output head, or none: each joins the denominator and
    /// the log-sum-exp of its head as a key without a value would, after all else. −∞ is no sink.
    pub sinks: Vec<f32>,
    /// Storage of q.
    pub q_dtype: DType,
    /// Storage of k and v; a cache says its own.
    pub kv_dtype: DType,
    /// Storage of the outputs.
    pub out_dtype: DType,
    /// How the queries of the sequences lie; the outputs lie likewise.
    pub queries: Queries,
    /// How the keys and values of the sequences lie.
    pub keys: Keys,
    /// Where queries stand among the keys; [`Alignment::LastKey`] for all that is ragged or rolls.
    pub alignment: Alignment,
    /// One output tensor or one for each component.
    pub outputs: Outputs,
    /// Whether the natural log-sum-exp of every output row is written.
    pub lse: bool,
    /// Whether a call can be cut between key tiles as well, and taken up again by a later dispatch:
    /// for calls of which a single query tile takes too long. It takes a storage buffer more, and a
    /// workspace where a [cut](super::AttentionPlan::cut) makes use of it. Cuts between query tiles
    /// need nothing.
    pub resumable: bool,
    /// How products are computed.
    pub precision: Precision,
}

eq_by_bits! {
    AttentionProblem {
        heads, kv_heads, head_dim, value_dim, rotary_dim, pairing, rotate_q, causal, window,
        bias, score_mod, mask_mod, block_list, prefix, q_dtype, kv_dtype, out_dtype, queries,
        keys, alignment, outputs, lse, resumable, precision;
        softmax_scale, softcap, alibi_slopes, sinks,
    }
}

impl AttentionProblem {
    /// Causal attention in f32 over all of D, scale `D^(−1/2)`, half-split pairs, q rotated before
    /// the call, one output tensor, no log-sum-exp.
    pub fn new(heads: HeadMap, kv_heads: u32, head_dim: u32) -> Self {
        Self {
            heads,
            kv_heads,
            head_dim,
            value_dim: head_dim,
            rotary_dim: head_dim,
            pairing: Pairing::Half,
            rotate_q: false,
            causal: true,
            window: None,
            softcap: None,
            alibi_slopes: Vec::new(),
            bias: None,
            score_mod: None,
            mask_mod: None,
            block_list: false,
            prefix: false,
            sinks: Vec::new(),
            softmax_scale: (f64::from(head_dim).powf(-0.5)) as f32,
            q_dtype: DType::F32,
            kv_dtype: DType::F32,
            out_dtype: DType::F32,
            queries: Queries::Batched,
            keys: Keys::Batched,
            alignment: Alignment::Shape,
            outputs: Outputs::Merged,
            lse: false,
            resumable: false,
            precision: Precision::F32,
        }
    }

    /// The same over a cache that an append has written the keys of the call into: the last query
    /// of a sequence stands at its last key, as chunks of a prompt do.
    pub fn over(heads: HeadMap, cache: CacheFormat) -> Self {
        Self {
            value_dim: cache.value_dim,
            keys: Keys::Cache(cache),
            alignment: Alignment::LastKey,
            ..Self::new(heads, cache.kv_heads, cache.head_dim)
        }
    }

    /// Decides how the problem runs on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that no plan fits, [`Error::Limit`] where the device has no
    /// room for any plan.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<AttentionPlan> {
        AttentionPlan::new(self, capabilities)
    }

    /// How the channels of q and k are cut.
    pub(super) fn channels(&self) -> Channels {
        let Self { rotate_q, head_dim, rotary_dim, pairing, .. } = *self;
        Channels::new(&self.heads, rotate_q, head_dim, rotary_dim, pairing)
    }

    /// Keys and values as a cache would have them; tensors are one of floats.
    pub(crate) fn cache(&self) -> CacheFormat {
        match self.keys {
            Keys::Cache(format) => format,
            Keys::Batched | Keys::Ragged => CacheFormat {
                value_dim: self.value_dim,
                k: self.kv_dtype.into(),
                v: self.kv_dtype.into(),
                ..CacheFormat::new(self.kv_heads, self.head_dim)
            },
        }
    }

    /// Whether keys are found through a table or in slots that are used again.
    pub(super) fn has_slots(&self) -> bool {
        let CacheFormat { paged, rolling, .. } = self.cache();
        paged || rolling
    }

    /// What is done to scores.
    pub(crate) fn rules(&self) -> ScoreRules<'_> {
        let heads_out = self.heads.heads().len() as u32;
        let heads = [self.heads.q_heads(), self.kv_heads, heads_out];
        ScoreRules {
            window: self.window,
            softcap: self.softcap,
            alibi_slopes: &self.alibi_slopes,
            bias: self.bias,
            score_mod: self.score_mod.as_ref(),
            mask_mod: self.mask_mod.as_ref(),
            prefix: self.prefix,
            sinks: &self.sinks,
            ..ScoreRules::new(heads, self.softmax_scale, self.causal)
        }
    }

    /// The table of output heads.
    pub(crate) fn head_rows(&self) -> HeadRows {
        let rules = self.rules();
        match self.precision.on_matrices() && MatrixTile::streams_part(self) {
            true => HeadRows::one_stream(&self.heads, &rules),
            false => HeadRows::new(&self.heads, &rules),
        }
    }

    /// All storage types of a call.
    pub(super) fn stored(&self) -> [CacheType; 4] {
        let CacheFormat { k, v, .. } = self.cache();
        [self.q_dtype.into(), k, v, self.out_dtype.into()]
    }

    /// Bytes that a key and its value take in one head.
    pub(super) fn kv_bytes(&self) -> u64 {
        let CacheFormat { k, v, .. } = self.cache();
        k.row_bytes(self.head_dim) + v.row_bytes(self.value_dim)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |what, needed, got: String| Err(Error::Invalid { what, needed, got });
        let cache = self.cache();
        cache.check()?;
        for (what, dim, cached) in [
            ("kv_heads", self.kv_heads, cache.kv_heads),
            ("head_dim", self.head_dim, cache.head_dim),
            ("value_dim", self.value_dim, cache.value_dim),
        ] {
            if dim != cached {
                let got = format!("{dim} over a cache of {cached}");
                return invalid(what, "that of the cache", got);
            }
        }
        if self.block_list && cache.rolling {
            return invalid("block_list", "false over a rolling cache", "true".into());
        }
        self.rules().check()?;
        if self.prefix && cache.rolling {
            return invalid("prefix", "false over a rolling cache", "true".into());
        }
        let differ = self.queries == Queries::Ragged || self.keys == Keys::Ragged || cache.rolling;
        if differ && self.rules().placed() && self.alignment != Alignment::LastKey {
            let got = format!("{:?}", self.alignment);
            return invalid("alignment", "LastKey where sequences differ in length", got);
        }
        let outputs = |q| self.heads.heads().iter().filter(|head| head.source == q).count();
        let split = self.outputs == Outputs::Split;
        if let Some(q) = (0..self.heads.q_heads()).find(|&q| split && outputs(q) != 2) {
            let got = format!("{} of query head {q}", outputs(q));
            return invalid("output heads of a query head, for split outputs", "two", got);
        }
        let Self { rotate_q, head_dim, rotary_dim, pairing, .. } = *self;
        Channels::check(&self.heads, rotate_q, head_dim, rotary_dim, pairing)
    }
}
