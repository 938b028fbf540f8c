//! How a model's attention will run: kernels of every layer, memory of all.

use crate::layers::{Layer, Model, Rows};
use crate::plan::attention::{AttentionPlan, AttentionProblem};
use crate::plan::cache::CacheType;
use crate::plan::decode::{DecodePlan, DecodeProblem};
use crate::plan::kv_append::{KvAppendPlan, KvAppendProblem};
use crate::plan::kv_move::{KvMovePlan, KvMoveProblem};
use crate::rotary::{Pairing, RopeConfig};
use crate::{Capabilities, Error, Layout, Result};

/// The most rows of a sequence that one decode call takes.
pub(super) const DECODE_ROWS: u32 = 16;

/// How a [`Model`] will run. Pure data; printing it says everything that was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelPlan {
    model: Model,
    kinds: Vec<LayerPlan>,
    kind_of: Vec<usize>,
    alignment: u64,
}

/// The kernels of a layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerPlan {
    /// Writes the new rows into the cache.
    pub append: KvAppendPlan,
    /// Attends with up to [`Model::decode_rows`] rows a sequence.
    pub decode: DecodePlan,
    /// Attends with more; `None` where a step has no more.
    pub many: Option<Many>,
    /// Moves rows within the cache, where [`Model::moves`] asks for it.
    pub moves: Option<KvMovePlan>,
}

/// What attends with more rows than decode is planned for.
#[derive(Debug, Clone, PartialEq)]
pub enum Many {
    /// Prefill: one call for all rows of a sequence.
    Prefill(Box<AttentionPlan>),
    /// Decode again, 16 rows a call: on devices that bind too few buffers for prefill.
    Decode(Box<DecodePlan>),
}

fn invalid<T>(what: &'static str, needed: &'static str, got: impl ToString) -> Result<T> {
    Err(Error::Invalid { what, needed, got: got.to_string() })
}

impl ModelPlan {
    pub(super) fn new(model: &Model, caps: &Capabilities) -> Result<Self> {
        for (what, number) in [
            ("layers", model.layers.len() as u64),
            ("sequences", model.sequences.into()),
            ("capacity", model.capacity.into()),
            ("max_rows", model.max_rows.into()),
        ] {
            if number == 0 {
                return invalid(what, "at least 1", number);
            }
        }
        if !(1..=DECODE_ROWS).contains(&model.decode_rows) {
            return invalid("decode_rows", "from 1 to 16", model.decode_rows);
        }
        if let Rows::Paged { page_size, pages } = model.rows {
            if page_size == 0 || !page_size.is_multiple_of(8) {
                return invalid("page_size", "a multiple of 8 rows", page_size);
            }
            if pages == 0 {
                return invalid("pages", "at least 1", pages);
            }
        }
        let mut plan = Self {
            model: model.clone(),
            kinds: Vec::new(),
            kind_of: Vec::new(),
            alignment: u64::from(caps.storage_alignment).max(16),
        };
        if u64::from(model.capacity).next_multiple_of(plan.page_rows().into()) > 1 << 29 {
            return invalid("capacity", "at most 2^29 rows", model.capacity);
        }
        let mut firsts: Vec<&Layer> = Vec::new();
        for layer in &model.layers {
            let known = firsts.iter().position(|&first| first == layer);
            let kind = match known {
                Some(kind) => kind,
                None => {
                    let kind = plan.kind(layer, caps)?;
                    plan.kinds.push(kind);
                    firsts.push(layer);
                    firsts.len() - 1
                }
            };
            plan.kind_of.push(kind);
        }
        let (limit, lists) = ("max_storage_buffer_binding_size", plan.list_bytes());
        Capabilities::need(limit, "lengths of a step", lists, caps.max_storage_binding)?;
        Ok(plan)
    }

    fn kind(&self, layer: &Layer, caps: &Capabilities) -> Result<LayerPlan> {
        let (model, capacity) = (&self.model, self.capacity());
        let format = layer.format(self.paged());
        if let Some(rope) = layer.rope.as_ref().filter(|rope| rope.head_dim != layer.head_dim) {
            return invalid("head_dim of the rotary embedding", "the layer's", rope.head_dim);
        }
        let rotates = layer.rope.is_some();
        let (rotary_dim, pairing) = match &layer.rope {
            Some(rope) => (rope.rotary_dim, rope.pairing),
            None => (layer.head_dim, Pairing::Half),
        };
        for (what, side, dim) in
            [("K cache", layer.k, layer.head_dim), ("V cache", layer.v, layer.value_dim)]
        {
            let bytes = self.cache_layout(layer, side, dim)?.elements() * side.element_bytes();
            let limit = "max_storage_buffer_binding_size";
            Capabilities::need(limit, what, bytes, caps.max_storage_binding)?;
        }
        let append = KvAppendProblem {
            rotate: rotates,
            rotary_dim,
            pairing,
            dtype: model.dtype,
            ..KvAppendProblem::new(format)
        };
        let decode = DecodeProblem {
            rotary_dim,
            pairing,
            rotate_q: rotates,
            window: layer.window,
            softmax_scale: layer.softmax_scale,
            softcap: layer.softcap,
            alibi_slopes: layer.alibi_slopes.clone(),
            sinks: layer.sinks.clone(),
            q_dtype: model.dtype,
            out_dtype: model.out_dtype,
            max_seq_q: model.decode_rows,
            ..DecodeProblem::new(layer.heads.clone(), format, model.sequences, capacity)
        };
        let many = match model.max_rows > model.decode_rows {
            false => None,
            true => Some(match self.prefill(layer, caps)? {
                Some(plan) => Many::Prefill(plan.into()),
                None => {
                    let decode = DecodeProblem { max_seq_q: DECODE_ROWS, ..decode.clone() };
                    Many::Decode(decode.plan(caps)?.into())
                }
            }),
        };
        let moves = KvMoveProblem { cache: format, rotate: rotates, rotary_dim, pairing };
        Ok(LayerPlan {
            append: append.plan(caps)?,
            decode: decode.plan(caps)?,
            many,
            moves: model.moves.then(|| moves.plan(caps)).transpose()?,
        })
    }

    /// Prefill, where the device binds enough buffers and has room for a tile.
    fn prefill(&self, layer: &Layer, caps: &Capabilities) -> Result<Option<AttentionPlan>> {
        let (model, rope) = (&self.model, layer.rope.as_ref());
        let problem = AttentionProblem {
            rotary_dim: rope.map_or(layer.head_dim, |rope| rope.rotary_dim),
            pairing: rope.map_or(Pairing::Half, |rope| rope.pairing),
            rotate_q: rope.is_some(),
            window: layer.window,
            softmax_scale: layer.softmax_scale,
            softcap: layer.softcap,
            alibi_slopes: layer.alibi_slopes.clone(),
            sinks: layer.sinks.clone(),
            q_dtype: model.dtype,
            out_dtype: model.out_dtype,
            resumable: model.resumable,
            precision: model.precision,
            ..AttentionProblem::over(layer.heads.clone(), layer.format(self.paged()))
        };
        match problem.plan(caps) {
            Ok(plan) => Ok(Some(plan)),
            // Decode would compute otherwise than was asked for.
            Err(Error::Limit { .. }) if !model.precision.on_matrices() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is planned.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The kernels of a layer; `None` past the last one.
    pub fn layer(&self, layer: usize) -> Option<&LayerPlan> {
        self.kinds.get(*self.kind_of.get(layer)?)
    }

    /// Kinds of layers, each with its kernels, and the kind of each layer.
    pub(super) fn kinds(&self) -> (&[LayerPlan], &[usize]) {
        (&self.kinds, &self.kind_of)
    }

    /// Rows that a sequence can have: the model's capacity, up to the end of its last page.
    pub fn capacity(&self) -> u32 {
        self.model.capacity.next_multiple_of(self.page_rows())
    }

    pub(super) fn paged(&self) -> bool {
        self.model.rows != Rows::Contiguous
    }

    pub(super) fn page_rows(&self) -> u32 {
        match self.model.rows {
            Rows::Contiguous => 1,
            Rows::Paged { page_size, .. } => page_size,
        }
    }

    /// Entries of a sequence in a block table; 0 where there is none.
    pub(super) fn max_pages(&self) -> u32 {
        if self.paged() { self.capacity() / self.page_rows() } else { 0 }
    }

    /// `[planes, H_kv, rows, row]` of one side of a layer's cache.
    pub(super) fn cache_layout(&self, layer: &Layer, side: CacheType, dim: u32) -> Result<Layout> {
        let [planes, rows] = match self.model.rows {
            Rows::Contiguous => [self.model.sequences, self.model.capacity],
            Rows::Paged { page_size, pages } => [pages, page_size],
        };
        Layout::bhsd([planes, layer.kv_heads, rows, side.row(dim)])
    }

    /// The rotary embeddings, each once.
    pub(super) fn ropes(&self) -> Vec<&RopeConfig> {
        let mut ropes: Vec<&RopeConfig> = Vec::new();
        for rope in self.model.layers.iter().filter_map(|layer| layer.rope.as_ref()) {
            if !ropes.contains(&rope) {
                ropes.push(rope);
            }
        }
        ropes
    }

    /// Whether some layer takes more than [`DECODE_ROWS`] rows in several calls.
    pub(super) fn piecewise(&self) -> bool {
        self.kinds.iter().any(|kind| matches!(kind.many, Some(Many::Decode(_))))
    }

    /// Bytes between ranges that are bound on their own.
    pub(super) fn alignment(&self) -> u64 {
        self.alignment
    }
}

impl core::fmt::Display for ModelPlan {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (model, bytes) = (&self.model, self.bytes());
        write!(f, "layers: {} of {} kinds, ", model.layers.len(), self.kinds.len())?;
        write!(f, "{} sequences of up to {} rows, ", model.sequences, self.capacity())?;
        match model.rows {
            Rows::Contiguous => write!(f, "contiguous, ")?,
            Rows::Paged { page_size, pages } => write!(f, "{pages} pages of {page_size} rows, ")?,
        }
        writeln!(f, "steps of up to {} rows", model.max_rows)?;
        write!(f, "  {} bytes: caches {}, ", bytes.total(), bytes.caches)?;
        write!(f, "cos/sin tables {}, workspace {}, ", bytes.tables, bytes.workspace)?;
        write!(f, "lengths and block tables {}", bytes.steps)?;
        for (n, kind) in self.kinds.iter().enumerate() {
            let of_kind = self.kind_of.iter().filter(|&&of| of == n).count();
            write!(f, "\n{of_kind} layers:\n{}\n{}", kind.append, kind.decode)?;
            match &kind.many {
                Some(Many::Prefill(plan)) => write!(f, "\n{plan}")?,
                Some(Many::Decode(plan)) => {
                    write!(f, "\nmore rows by decode, {DECODE_ROWS} a call:\n{plan}")?;
                }
                None => {}
            }
            if let Some(moves) = &kind.moves {
                write!(f, "\n{moves}")?;
            }
        }
        Ok(())
    }
}
