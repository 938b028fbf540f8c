//! The tensors of a backward call, and the checks they have to pass.

use crate::call::{
    Access, Binding, Checker, CosSin, Positions, Reach, RotaryParams, Strides, Tensor, present,
};
use crate::plan::attention::{Alignment, AttentionShape, Keys, Queries};
use crate::plan::attention_backward::AttentionBackwardPlan;
use crate::{DType, Error, Layout, Result};

/// The tensors of one backward call. Strides and offsets of q, k, v, out and `d_out` are multiples
/// of 4 elements; `d_out` may be broadcast by strides of 0. Of the gradients, strides are any.
#[derive(Debug, Clone)]
pub struct AttentionBackwardBindings<B> {
    /// As in the forward pass, `[B, H_q, S_q, D]` or ragged `[1, H_q, rows, D]`; read.
    pub q: Tensor<B>,
    /// As in the forward pass, rotated, `[B, H_kv, S_k, D]` or ragged; read.
    pub k: Tensor<B>,
    /// As in the forward pass, `[B, H_kv, S_k, D_v]` or ragged; read.
    pub v: Tensor<B>,
    /// What the forward pass wrote, `[B, H_out, S_q, D_v]` or ragged; read.
    pub out: Tensor<B>,
    /// The log-sum-exp that the forward pass wrote, f32 `[B, H_out, S_q]` or `[H_out, rows]`; read.
    pub lse: B,
    /// ∂loss/∂out, of shape and type of `out`; read.
    pub d_out: Tensor<B>,
    /// ∂loss/∂lse, f32, as `lse`; read.
    pub d_lse: Option<B>,
    /// ∂loss/∂q in f32, of the shape of q; written.
    pub dq: Tensor<B>,
    /// ∂loss/∂k in f32, of the shape of k; written, zeros where a batch has no key.
    pub dk: Tensor<B>,
    /// ∂loss/∂v in f32, of the shape of v; written, zeros where a batch has no key.
    pub dv: Tensor<B>,
    /// ∂loss/∂sinks, f32 `[H_out]`; written.
    pub d_sinks: Option<B>,
    /// ∂loss/∂bias, f32 `[B, H_out, S_q, S_k]` without gaps; written, zeros where a key is hidden.
    /// The gradient of a bias that is broadcast is the sum over what it is broadcast along.
    pub d_bias: Option<B>,
    /// As in the forward pass; read.
    pub kv_lens: Option<B>,
    /// As in the forward pass; read.
    pub cu_seqlens_q: Option<B>,
    /// As in the forward pass; read.
    pub cu_seqlens_k: Option<B>,
    /// As in the forward pass; read.
    pub prefix_lens: Option<B>,
    /// As in the forward pass: layout and binding of a bias or mask; read.
    pub bias: Option<(Layout, B)>,
    /// Table and positions, where q is rotated in the kernel or gradients are turned back.
    pub rotation: Option<BackwardRotation<B>>,
    /// [`AttentionBackwardPlan::workspace_bytes`] of scratch memory; read and written.
    pub workspace: B,
}

/// The rotation of the forward pass: of queries, and of keys before it.
#[derive(Debug, Clone)]
pub struct BackwardRotation<B> {
    /// The table that both were turned by.
    pub table: CosSin<B>,
    /// Positions of the queries.
    pub q_positions: Positions<B>,
    /// Positions of the keys; counted from a first one, or ids. One dispatch reads both lists of
    /// ids, so that under [`Sharing::Ranges`](crate::Sharing) they are two, in ranges of their own.
    pub k_positions: Positions<B>,
}

/// What the checks found out.
pub(super) struct Checked {
    pub(super) q_rotary: RotaryParams,
    pub(super) k_rotary: RotaryParams,
    pub(super) bias: Strides,
    /// Rows of q, `[B, S_q]` or `[1, rows]`.
    pub(super) q_rows: [u32; 2],
}

impl<B: Binding> AttentionBackwardBindings<B> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(
        [q, k, v]: [Tensor<B>; 3],
        (out, lse): (Tensor<B>, B),
        d_out: Tensor<B>,
        [dq, dk, dv]: [Tensor<B>; 3],
        workspace: B,
    ) -> Self {
        Self {
            q,
            k,
            v,
            out,
            lse,
            d_out,
            d_lse: None,
            dq,
            dk,
            dv,
            d_sinks: None,
            d_bias: None,
            kv_lens: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            prefix_lens: None,
            bias: None,
            rotation: None,
            workspace,
        }
    }

    /// Checks everything.
    pub(super) fn check(
        &self,
        plan: &AttentionBackwardPlan,
        shape: &AttentionShape,
    ) -> Result<Checked> {
        let (problem, p) = (plan.problem(), &plan.problem().attention);
        let mut checker = Checker::new(&plan.capabilities);
        let AttentionShape { batch, seq_q, seq_k, .. } = *shape;
        let q_rows = match p.queries {
            Queries::Batched => [batch, seq_q],
            Queries::Ragged => [1, self.q.layout.shape[2]],
        };
        let k_rows = match p.keys {
            Keys::Ragged => [1, self.k.layout.shape[2]],
            _ => [batch, seq_k],
        };
        self.tensors(plan, &mut checker, [q_rows, k_rows])?;
        self.lists_and_scratch(plan, shape, &mut checker, q_rows)?;
        let heads_out = p.heads.heads().len() as u32;
        let bias = checker.bias(p.bias, self.bias.as_ref(), [batch, heads_out, seq_q, seq_k])?;
        present("rotation", problem.turns(), self.rotation.is_some())?;
        let (q_rotary, k_rotary) = self.rotaries(plan, shape, &mut checker, [q_rows, k_rows])?;
        Ok(Checked { q_rotary, k_rotary, bias, q_rows })
    }

    /// What every call reads and writes in rows of heads.
    fn tensors(
        &self,
        plan: &AttentionBackwardPlan,
        checker: &mut Checker<'_, B>,
        [q_rows, k_rows]: [[u32; 2]; 2],
    ) -> Result<()> {
        let p = &plan.problem().attention;
        let heads_out = p.heads.heads().len() as u32;
        let of = |[batches, rows]: [u32; 2], heads, channels| [batches, heads, rows, channels];
        let q_shape = of(q_rows, p.heads.q_heads(), p.head_dim);
        let k_shape = of(k_rows, p.kv_heads, p.head_dim);
        let v_shape = of(k_rows, p.kv_heads, p.value_dim);
        let out_shape = of(q_rows, heads_out, p.value_dim);
        for (name, tensor, dtype, shape) in [
            ("q", &self.q, p.q_dtype, q_shape),
            ("k", &self.k, p.kv_dtype, k_shape),
            ("v", &self.v, p.kv_dtype, v_shape),
            ("out", &self.out, p.out_dtype, out_shape),
            ("d_out", &self.d_out, p.out_dtype, out_shape),
        ] {
            checker.tensor(name, tensor, Access::Read, dtype, shape, 4)?;
        }
        for (name, tensor, shape) in
            [("dq", &self.dq, q_shape), ("dk", &self.dk, k_shape), ("dv", &self.dv, v_shape)]
        {
            checker.tensor(name, tensor, Access::Write, DType::F32, shape, 1)?;
        }
        Ok(())
    }

    /// What lies in order without strides: numbers of rows, sequences and heads, and the workspace.
    fn lists_and_scratch(
        &self,
        plan: &AttentionBackwardPlan,
        shape: &AttentionShape,
        checker: &mut Checker<'_, B>,
        q_rows: [u32; 2],
    ) -> Result<()> {
        let (problem, p) = (plan.problem(), &plan.problem().attention);
        let AttentionShape { batch, seq_q, seq_k, .. } = *shape;
        let heads_out = p.heads.heads().len() as u32;
        let lse = 4 * Layout::bhsd([q_rows[0], heads_out, q_rows[1], 1])?.elements();
        checker.binding("lse", &self.lse, Access::Read, lse)?;
        let scores = Layout::bhsd([batch, heads_out, seq_q, seq_k]);
        let d_bias = if problem.d_bias { 4 * scores?.elements() } else { 0 };
        let rows = u64::from(q_rows[0]) * u64::from(q_rows[1]);
        let workspace = plan.workspace(shape, rows).len;
        if workspace > u64::from(u32::MAX) {
            return Err(Error::IndexOverflow { tensor: "workspace", index: workspace });
        }
        let n = u64::from;
        let ragged = [p.queries == Queries::Ragged, p.keys == Keys::Ragged];
        use Access::{Read, Scratch, Write};
        for (name, needed, given, access, bytes) in [
            ("d_lse", problem.d_lse, &self.d_lse, Read, lse),
            ("d_sinks", problem.d_sinks, &self.d_sinks, Write, 4 * n(heads_out)),
            ("d_bias", problem.d_bias, &self.d_bias, Write, d_bias),
            ("prefix_lens", p.prefix, &self.prefix_lens, Read, 4 * n(batch)),
            ("cu_seqlens_q", ragged[0], &self.cu_seqlens_q, Read, 4 * (n(batch) + 1)),
            ("cu_seqlens_k", ragged[1], &self.cu_seqlens_k, Read, 4 * (n(batch) + 1)),
            // Lengths of batched keys may be given or not.
            ("kv_lens", self.kv_lens.is_some() && !ragged[1], &self.kv_lens, Read, 4 * n(batch)),
            ("workspace", true, &Some(self.workspace.clone()), Scratch, 4 * workspace),
        ] {
            present(name, needed, given.is_some())?;
            if let Some(binding) = given {
                checker.binding(name, binding, access, bytes)?;
            }
        }
        Ok(())
    }

    fn rotaries(
        &self,
        plan: &AttentionBackwardPlan,
        shape: &AttentionShape,
        checker: &mut Checker<'_, B>,
        [q_rows, k_rows]: [[u32; 2]; 2],
    ) -> Result<(RotaryParams, RotaryParams)> {
        let p = &plan.problem().attention;
        let Some(BackwardRotation { table, q_positions, k_positions }) = &self.rotation else {
            return Ok(Default::default());
        };
        let streams = table.shape.axes.map_or(1, |axes| axes.streams);
        if streams > plan.problem().position_streams {
            let got = format!("{streams} in the table");
            let needed = "at most the problem's position_streams";
            return Err(Error::Invalid { what: "position streams", needed, got });
        }
        let unknown = |why| Err(Error::Binding { tensor: "positions", why });
        match q_positions {
            Positions::AmongKeys if !p.causal => {
                return unknown("AmongKeys needs the causal mask, which says where queries stand");
            }
            Positions::AmongKeys if table.shape.planes > 1 && p.prefix => {
                return unknown("AmongKeys of an xPos table has no gradients with a prefix");
            }
            _ => {}
        }
        // The largest place among the keys decides how long the table must be.
        let places = match p.alignment {
            Alignment::LastKey => i64::from(shape.seq_k),
            Alignment::Shape => shape.offset() + i64::from(shape.seq_q),
        };
        let places = Some(u32::try_from(places.max(0)).unwrap_or(u32::MAX));
        let reach = Reach { ids: q_rows, places, ..Reach::rows(0, shape.seq_q) };
        let q = RotaryParams::new(checker, table, q_positions, p.rotary_dim, reach)?;
        if matches!(k_positions, Positions::AmongKeys) {
            return unknown("AmongKeys is for queries; count keys From(0)");
        }
        let name = "key_position_ids";
        let reach = Reach { name, ids: k_rows, ..Reach::rows(0, shape.seq_k) };
        let k = RotaryParams::new(checker, table, k_positions, p.rotary_dim, reach)?;
        Ok((q, k))
    }
}
