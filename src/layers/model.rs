//! What a model says of its attention, and what its host wants to keep of it.

use crate::layers::ModelPlan;
use crate::plan::cache::{CacheFormat, CacheType};
use crate::rotary::RopeConfig;
use crate::{Capabilities, DType, HeadMap, Precision, Result};

/// One attention layer: everything that may differ from layer to layer. Fill in what differs from
/// [`Layer::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Output heads, and the query head and phase of each: [`HeadMap::plain`], or
    /// [`HeadMap::ropepp`] for EC and EH.
    pub heads: HeadMap,
    /// H_kv: what W_k really has (for EH, half of the configuration's `num_key_value_heads`).
    pub kv_heads: u32,
    /// D: channels of q and k, a multiple of 8.
    pub head_dim: u32,
    /// D_v: channels of v and of every output head, a multiple of 8.
    pub value_dim: u32,
    /// Rotary embedding of q and k; `None` for a layer without (SmolLM3, Llama 4 have some).
    pub rope: Option<RopeConfig>,
    /// Factor on every score before the softmax.
    pub softmax_scale: f32,
    /// Sliding window: a row sees the `window` keys that end at its own, itself included. The cache
    /// still has room for the whole sequence.
    pub window: Option<u32>,
    /// Softcap c > 0 (Gemma 2): a scaled score s becomes `c tanh(s / c)`.
    pub softcap: Option<f32>,
    /// ALiBi slopes, one an output head, or none.
    pub alibi_slopes: Vec<f32>,
    /// Attention sinks (gpt-oss), one logit an output head, or none.
    pub sinks: Vec<f32>,
    /// Storage of K.
    pub k: CacheType,
    /// Storage of V.
    pub v: CacheType,
}

impl Layer {
    /// Causal attention over a cache in f32, D_v = D as in `rope`, scale `D^(−1/2)`, no window,
    /// softcap, slopes or sinks.
    pub fn new(heads: HeadMap, kv_heads: u32, rope: RopeConfig) -> Self {
        let head_dim = rope.head_dim;
        Self {
            heads,
            kv_heads,
            head_dim,
            value_dim: head_dim,
            rope: Some(rope),
            softmax_scale: f64::from(head_dim).powf(-0.5) as f32,
            window: None,
            softcap: None,
            alibi_slopes: Vec::new(),
            sinks: Vec::new(),
            k: CacheType::F32,
            v: CacheType::F32,
        }
    }

    /// The same layer with K and V stored otherwise.
    #[must_use]
    pub fn stored(self, k: CacheType, v: CacheType) -> Self {
        Self { k, v, ..self }
    }

    /// Output heads, H_out.
    pub(super) fn heads_out(&self) -> u32 {
        self.heads.heads().len() as u32
    }

    pub(super) fn format(&self, paged: bool) -> CacheFormat {
        let Self { value_dim, k, v, .. } = *self;
        CacheFormat { value_dim, k, v, paged, ..CacheFormat::new(self.kv_heads, self.head_dim) }
    }
}

/// How the rows of the sequences lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rows {
    /// Every sequence has its whole capacity for itself, in one piece.
    Contiguous,
    /// Sequences take pages as they grow, and forks share them.
    Paged {
        /// Rows of a page, a multiple of 8.
        page_size: u32,
        /// Pages of the pool, for all sequences together. Every layer has a pool of as many.
        pages: u32,
    },
}

/// The attention of a model, and how much of it a host keeps. Fill in what differs from
/// [`Model::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The layers, in order. Layers that are alike share kernels.
    pub layers: Vec<Layer>,
    /// The most sequences at a time.
    pub sequences: u32,
    /// The most rows (tokens) of a sequence; rounded up to whole pages where there are some. The
    /// cos/sin tables are as long.
    pub capacity: u32,
    /// The most rows of a step, those of all sequences together: what q, k, v and out have room
    /// for. A longer prompt takes several steps.
    pub max_rows: u32,
    /// How the rows lie.
    pub rows: Rows,
    /// Up to how many new rows a sequence is decoded, 1 to 16; more go through prefill. 1, or as
    /// many as a speculative draft has.
    pub decode_rows: u32,
    /// Whether sequences are forked in the middle of a page, forked in a contiguous cache, or
    /// shifted, which takes a kernel more.
    pub moves: bool,
    /// Whether prefill may be cut between key tiles as well: for budgets shorter than a row of
    /// tiles over all keys. It takes a workspace, and a storage buffer more.
    pub resumable: bool,
    /// How prefill computes products; decode does in f32 whatever this says. On matrix units only
    /// where the device may use them.
    pub precision: Precision,
    /// Storage of q, k and v as the host hands them over.
    pub dtype: DType,
    /// Storage of the outputs.
    pub out_dtype: DType,
    /// The length that frequencies are made for where they follow the length (dynamic NTK,
    /// LongRoPE); `None` for the capacity.
    pub rope_len: Option<u64>,
}

impl Model {
    /// `sequences` sequences of up to `capacity` rows, contiguous, steps of up to 512 rows (but not
    /// fewer than sequences), in f32, without moves.
    pub fn new(layers: Vec<Layer>, sequences: u32, capacity: u32) -> Self {
        Self {
            layers,
            sequences,
            capacity,
            max_rows: capacity.min(512).max(sequences),
            rows: Rows::Contiguous,
            decode_rows: 1,
            moves: false,
            resumable: false,
            precision: Precision::F32,
            dtype: DType::F32,
            out_dtype: DType::F32,
            rope_len: None,
        }
    }

    /// Decides how everything runs on a device, and says what memory it takes; nothing is compiled
    /// or allocated yet.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for numbers that no plan fits,
    /// [`Error::Limit`](crate::Error::Limit) where the device has too little room for a kernel or a
    /// cache, [`Error::IndexOverflow`](crate::Error::IndexOverflow) for a cache past 32 bits,
    /// [`Error::NoMatrices`](crate::Error::NoMatrices) where prefill should run on matrix units and
    /// cannot.
    pub fn plan(&self, capabilities: &Capabilities) -> Result<ModelPlan> {
        ModelPlan::new(self, capabilities)
    }
}
