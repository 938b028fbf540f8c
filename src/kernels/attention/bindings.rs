//! The tensors of an attention call, and the checks they have to pass.

use crate::call::{
    Access, Binding, CacheBindings, CacheParams, CacheTensor, Checker, Reach, RotaryParams,
    Rotation, Strides, Tensor, present,
};
use crate::plan::attention::{
    Alignment, AttentionPlan, AttentionProblem, AttentionShape, Keys, Outputs, Queries,
};
use crate::{Error, Layout, Result};

/// The tensors of one attention call. Strides and offsets are multiples of 4 elements.
#[derive(Debug, Clone)]
pub struct AttentionBindings<B> {
    /// `[B, H_q, S_q, D]`, ragged `[1, H_q, rows, D]`; read.
    pub q: Tensor<B>,
    /// Rotated keys and values: tensors `[B, H_kv, S_k, D]` and `[B, H_kv, S_k, D_v]`, ragged
    /// `[1, H_kv, rows, D]` and `[1, H_kv, rows, D_v]`, or a cache, the new rows in it already;
    /// read.
    pub cache: CacheBindings<B>,
    /// `[B, H_out, S_q, D_v]`, or `[B, H_q, S_q, D_v]` for split outputs, or `[1, H, rows, D_v]`
    /// where q is ragged; written.
    pub out: Tensor<B>,
    /// Split outputs: as out, the second stream of every query head; written.
    pub out_im: Option<Tensor<B>>,
    /// Natural log-sum-exp of every output row, f32 `[B, H_out, S_q]`, or `[H_out, rows]` where q
    /// is ragged, without gaps, heads in the order of the head map; written. −∞ in rows that see no
    /// key.
    pub lse: Option<B>,
    /// Batched keys and caches: how many keys each sequence has, u32 `[B]`, read. Keys behind them
    /// are padding and never read. Numbers above S_k count as S_k, unless the cache rolls; then it
    /// is needed, and counts the keys that are gone as well (below 2^29). Without it all S_k are
    /// there.
    pub kv_lens: Option<B>,
    /// Ragged queries: u32 `[B + 1]`, first row of each sequence, then the end; read.
    pub cu_seqlens_q: Option<B>,
    /// Ragged keys: u32 `[B + 1]`, first row of each sequence, then the end; read.
    pub cu_seqlens_k: Option<B>,
    /// Bias or mask, `[B, H_out, S_q, S_k]`: layout and binding, both in elements of the bias (f32,
    /// or bytes of a mask). Strides of 0 broadcast; keys are contiguous, by slots in a rolling
    /// cache. Read.
    pub bias: Option<(Layout, B)>,
    /// Prefix-LM: u32 `[B]`, read.
    pub prefix_lens: Option<B>,
    /// Which tiles are visited.
    pub block_list: Option<BlockList<B>>,
    /// Table and positions of q, where the kernel rotates it.
    pub rotation: Option<Rotation<B>>,
    /// [`Cut::workspace_bytes`](crate::attention::Cut::workspace_bytes) of scratch memory, where
    /// that is not 0; read and written. Its contents matter from the first part of a call to the
    /// last.
    pub workspace: Option<B>,
}

/// Which tiles of queries and keys a call visits: u32
/// `[B, ceil(S_q / block_q), ceil(S_k / block_k)]` without gaps, with the sizes of the plan's
/// [tile](crate::attention::Tile); 0 leaves a tile out, as if the mask hid all of it.
#[derive(Debug, Clone)]
pub struct BlockList<B> {
    /// Where it lies.
    pub binding: B,
    /// Whether each batch has a list of its own; otherwise B is 1 and all share it.
    pub per_batch: bool,
}

/// What the checks of a call find.
pub(super) struct Checked {
    pub(super) cache: CacheParams,
    pub(super) rotary: RotaryParams,
    pub(super) bias: Strides,
}

impl<B: Binding> AttentionBindings<B> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(
        q: Tensor<B>,
        k: impl Into<CacheTensor<B>>,
        v: impl Into<CacheTensor<B>>,
        out: Tensor<B>,
    ) -> Self {
        let cache = CacheBindings { k: k.into(), v: v.into(), block_table: None };
        Self {
            q,
            cache,
            out,
            out_im: None,
            lse: None,
            kv_lens: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            bias: None,
            prefix_lens: None,
            block_list: None,
            rotation: None,
            workspace: None,
        }
    }

    /// Queries over a cache, of which each sequence has `kv_lens` keys.
    pub fn over(q: Tensor<B>, cache: CacheBindings<B>, kv_lens: B, out: Tensor<B>) -> Self {
        let CacheBindings { k, v, block_table } = cache;
        let new = Self::new(q, k, v, out);
        Self { cache: CacheBindings { block_table, ..new.cache }, kv_lens: Some(kv_lens), ..new }
    }

    /// Lengths and tables, in the order of `Lists`.
    pub(super) fn lists(&self) -> [(&'static str, Option<&B>); 6] {
        [
            ("kv_lens", self.kv_lens.as_ref()),
            ("cu_seqlens_q", self.cu_seqlens_q.as_ref()),
            ("cu_seqlens_k", self.cu_seqlens_k.as_ref()),
            ("block_table", self.cache.block_table.as_ref().map(|table| &table.binding)),
            ("prefix_lens", self.prefix_lens.as_ref()),
            ("block_list", self.block_list.as_ref().map(|list| &list.binding)),
        ]
    }

    /// Checks everything.
    pub(super) fn check(
        &self,
        plan: &AttentionPlan,
        checker: &mut Checker<'_, B>,
        shape: &AttentionShape,
        workspace_bytes: u64,
    ) -> Result<Checked> {
        let problem = plan.problem();
        let AttentionShape { batch, seq_q, seq_k, .. } = *shape;
        let q_heads = problem.heads.q_heads();
        let heads_out = problem.heads.heads().len() as u32;
        let (d, dv) = (problem.head_dim, problem.value_dim);

        let (q_batch, q_rows) = match problem.queries {
            Queries::Batched => (batch, seq_q),
            Queries::Ragged => (1, self.q.layout.shape[2]),
        };
        let q_shape = [q_batch, q_heads, q_rows, d];
        checker.tensor("q", &self.q, Access::Read, problem.q_dtype, q_shape, 4)?;
        let cache = self.check_keys(problem, checker, shape)?;
        let split = problem.outputs == Outputs::Split;
        let out_shape = [q_batch, if split { q_heads } else { heads_out }, q_rows, dv];
        checker.tensor("out", &self.out, Access::Write, problem.out_dtype, out_shape, 4)?;
        present("out_im", split, self.out_im.is_some())?;
        if let Some(out_im) = &self.out_im {
            checker.tensor("out_im", out_im, Access::Write, problem.out_dtype, out_shape, 4)?;
        }
        let rows = Layout::bhsd([q_batch, heads_out, q_rows, 1])?.elements();
        checker.optional("lse", problem.lse, self.lse.as_ref(), Access::Write, 4 * rows)?;
        self.check_lengths(problem, checker, shape)?;
        self.check_block_list(plan, checker, shape)?;
        let bias_shape = [batch, heads_out, seq_q, seq_k];
        let bias = checker.bias(problem.bias, self.bias.as_ref(), bias_shape)?;
        // A resumable plan may be given a workspace for calls that happen to need none.
        let given = self.workspace.is_some() && (workspace_bytes > 0 || !problem.resumable);
        present("workspace", workspace_bytes > 0, given)?;
        if let Some(workspace) = &self.workspace {
            checker.binding("workspace", workspace, Access::Write, workspace_bytes)?;
        }
        let rotary = self.check_rotation(problem, checker, shape, [q_batch, q_rows])?;
        Ok(Checked { cache, rotary, bias })
    }

    fn check_block_list(
        &self,
        plan: &AttentionPlan,
        checker: &mut Checker<'_, B>,
        shape: &AttentionShape,
    ) -> Result<()> {
        let (tile, list) = (plan.tile(), self.block_list.as_ref());
        let batches = match list {
            Some(list) if list.per_batch => u64::from(shape.batch),
            _ => 1,
        };
        let tiles = [(shape.seq_q, tile.block_q()), (shape.seq_k, tile.block_k())]
            .map(|(seq, block)| u64::from(seq.div_ceil(block)));
        let len = (tiles[0] * tiles[1]).saturating_mul(batches);
        if list.is_some() && len > u64::from(u32::MAX) {
            return Err(Error::IndexOverflow { tensor: "block_list", index: len });
        }
        let (needed, list) = (plan.problem().block_list, list.map(|list| &list.binding));
        checker.optional("block_list", needed, list, Access::Read, len.saturating_mul(4))
    }

    fn check_keys(
        &self,
        problem: &AttentionProblem,
        checker: &mut Checker<'_, B>,
        shape: &AttentionShape,
    ) -> Result<CacheParams> {
        let AttentionShape { batch, seq_q, seq_k, .. } = *shape;
        let (format, layout) = (problem.cache(), &self.cache.k.layout);
        let needed = match problem.keys {
            Keys::Batched => [batch, format.kv_heads, seq_k, format.head_dim],
            Keys::Ragged => [1, format.kv_heads, layout.shape[2], format.head_dim],
            Keys::Cache(_) => {
                let cache = CacheParams::new(checker, &format, &self.cache, Access::Read, batch)?;
                let capacity = cache.capacity;
                if seq_k > capacity || (format.rolling && seq_k < capacity) {
                    return Err(Error::Invalid {
                        what: "seq_k",
                        needed: "at most the capacity of the cache, all of it where it rolls",
                        got: format!("{seq_k} of {capacity}"),
                    });
                }
                if seq_k > 0 && layout.is_empty() {
                    return Err(Error::Shape {
                        tensor: "k_cache",
                        needed: [1, format.kv_heads, layout.shape[2], layout.shape[3]],
                        got: layout.shape,
                    });
                }
                if let Some(window) = problem.window.filter(|_| format.rolling)
                    && u64::from(window) + u64::from(seq_q) > u64::from(capacity) + 1
                {
                    return Err(Error::Invalid {
                        what: "window",
                        needed: "window + seq_q - 1 <= capacity of a rolling cache",
                        got: format!("{window} + {seq_q} - 1 of {capacity}"),
                    });
                }
                return Ok(cache);
            }
        };
        if layout.shape != needed {
            return Err(Error::Shape { tensor: "k", needed, got: layout.shape });
        }
        CacheParams::named(["k", "v"], checker, &format, &self.cache, Access::Read, needed[0])
    }

    fn check_lengths(
        &self,
        problem: &AttentionProblem,
        checker: &mut Checker<'_, B>,
        shape: &AttentionShape,
    ) -> Result<()> {
        let batch = u64::from(shape.batch);
        let ragged_q = problem.queries == Queries::Ragged;
        present("cu_seqlens_q", ragged_q, self.cu_seqlens_q.is_some())?;
        let ragged_k = problem.keys == Keys::Ragged;
        present("cu_seqlens_k", ragged_k, self.cu_seqlens_k.is_some())?;
        if ragged_k || problem.cache().rolling {
            present("kv_lens", !ragged_k, self.kv_lens.is_some())?;
        }
        present("prefix_lens", problem.prefix, self.prefix_lens.is_some())?;
        let words = [
            ("prefix_lens", &self.prefix_lens, batch),
            ("cu_seqlens_q", &self.cu_seqlens_q, batch + 1),
            ("cu_seqlens_k", &self.cu_seqlens_k, batch + 1),
            ("kv_lens", &self.kv_lens, batch),
        ];
        for (name, binding, len) in words {
            if let Some(binding) = binding {
                if len > u64::from(u32::MAX) {
                    return Err(Error::IndexOverflow { tensor: name, index: len });
                }
                checker.binding(name, binding, Access::Read, 4 * len)?;
            }
        }
        Ok(())
    }

    fn check_rotation(
        &self,
        problem: &AttentionProblem,
        checker: &mut Checker<'_, B>,
        shape: &AttentionShape,
        [batch, rows]: [u32; 2],
    ) -> Result<RotaryParams> {
        // The place farthest from key 0 decides how long the table must be. Before key 0, rows see
        // a prefix or nothing.
        let (end, before) = match problem.alignment {
            // In a rolling cache places have no end.
            _ if problem.cache().rolling => (1, 1),
            Alignment::LastKey => (i64::from(shape.seq_k), i64::from(shape.seq_q)),
            Alignment::Shape => (shape.offset() + i64::from(shape.seq_q), 1 - shape.offset()),
        };
        let places = end.max(if problem.prefix { before } else { 0 }).max(0);
        // Without causal mask, window and ALiBi, queries have no place among the keys.
        let places = problem.rules().placed().then(|| u32::try_from(places).unwrap_or(u32::MAX));
        let reach = Reach { ids: [batch, rows], places, ..Reach::rows(0, shape.seq_q) };
        let rotary_dim = problem.rotate_q.then_some(problem.rotary_dim);
        RotaryParams::optional(checker, self.rotation.as_ref(), rotary_dim, reach)
    }
}
