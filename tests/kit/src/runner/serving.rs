//! Cases as a server runs them: keys and values appended to a cache, a few rows at a time, and
//! decode with split keys and their merge behind each append.

use std::ops::Range;

use phasor::decode::{Decode, DecodeBindings, DecodePlan, DecodeProblem, DecodeShape};
use phasor::kv_append::{KvAppend, KvAppendProblem};
use phasor::merge::{Merge, MergeBindings, MergeProblem, MergeShape};
use phasor::rotary::Positions;
use phasor::{DType, Layout, Tensor, oracle};

use super::{
    Device, Ways,
    cache::{Cache, Slots},
};
use crate::cases::{AttentionCase, CacheCase, MergeCase, Result, Rotation, Variant};

/// Splits of the keys: enough that the merge has work, and some of them may be empty.
const SPLITS: u32 = 3;
/// Rows of a workgroup at most.
const TILE_ROWS: u32 = 4;
/// Rows that one call decodes at most.
const MOST_ROWS: u32 = 16;

/// Whether rows stand where they are rotated to: key j at position j.
fn in_place(rotation: &Rotation, rows: Range<u32>) -> bool {
    rotation.positions.len() == 1 && rotation.positions[0].iter().copied().eq(rows)
}

/// Whether cache and decode can compute a case: a sequence that grows row by row.
fn suits(case: &AttentionCase) -> bool {
    let [_, _, seq_q, head_dim] = case.q_shape;
    let seq_k = case.k_shape[2];
    let stands = case.rotations.as_ref().is_none_or(|[queries, keys]| {
        seq_q <= seq_k
            && in_place(queries, seq_k - seq_q..seq_k)
            && in_place(keys, 0..seq_k)
            && (case.causal || seq_q <= MOST_ROWS)
    });
    let dims = head_dim.is_multiple_of(8) && case.v_shape[3].is_multiple_of(8);
    // Decode has these too, by other bindings; the cases that have them are about gradients.
    let Variant { alibi_slopes, bias, prefix_lens, query_offset, .. } = &case.variant;
    let plain = alibi_slopes.is_empty() && bias.is_none() && prefix_lens.is_none();
    let aligned = query_offset.is_none_or(|offset| offset == seq_k as i32 - seq_q as i32);
    seq_q > 0 && seq_q <= seq_k && case.kv_lens.is_none() && stands && dims && plain && aligned
}

impl Device<'_> {
    /// A case through cache and decode, contiguous and paged; nothing for one that they are not
    /// for.
    pub(super) fn served(&self, case: &AttentionCase) -> Result<Ways<oracle::Attended<f64>>> {
        if !suits(case) {
            return Ok(Vec::new());
        }
        Ok(vec![
            ("decode", self.decode(case, Slots::Contiguous)?),
            ("paged", self.decode(case, Slots::Paged)?),
        ])
    }

    fn decode(&self, case: &AttentionCase, slots: Slots) -> Result<oracle::Attended<f64>> {
        let [batch, q_heads, seq_q, head_dim] = case.q_shape;
        let [_, kv_heads, seq_k, _] = case.k_shape;
        let value_dim = case.v_shape[3];
        let heads_out = case.heads.heads().len() as u32;
        let gpu = self.gpu;
        let keys = case.rotations.as_ref().map(|[_, keys]| keys);
        let dims = [head_dim, value_dim];
        let cache = Cache::new(self, slots, [batch, kv_heads], dims, seq_k, keys)?;
        let rows = seq_q.min(MOST_ROWS);
        let (rotary_dim, pairing) = case.pairs();
        let kernel = self.decode_kernel(&DecodeProblem {
            rotary_dim,
            pairing,
            rotate_q: case.rotations.is_some(),
            causal: case.causal,
            window: case.variant.window,
            softcap: case.variant.softcap.map(|cap| cap as f32),
            sinks: case.variant.sinks.clone(),
            softmax_scale: case.softmax_scale as f32,
            lse: true,
            max_seq_q: rows,
            ..DecodeProblem::new(case.heads.clone(), cache.format, batch, seq_k)
        })?;
        let [out_len, lse_len] = [case.out_shape(), case.lse_shape()]
            .map(|shape| shape.iter().map(|&n| n as usize).product::<usize>());
        let q = gpu.upload(&case.q, DType::F32);
        let out = gpu.output(out_len, DType::F32);
        let workspace = gpu.output(
            kernel.plan().workspace_bytes(&kernel.plan().problem().largest()) as usize / 4,
            DType::F32,
        );
        // Some rows of a tensor [B, H, S_q, dim].
        let part = |buffer, heads, rows: &Range<u32>, dim| -> Result<Tensor<'_>> {
            let whole = Layout::bhsd([batch, heads, seq_q, dim])?;
            let shape = [batch, heads, rows.end - rows.start, dim];
            Ok(Tensor::new(buffer, DType::F32, Layout { shape, offset: rows.start * dim, ..whole }))
        };
        let before = seq_k - seq_q;
        let mut appended = 0;
        let mut lse = vec![0.0; lse_len];
        for start in (0..seq_q).step_by(MOST_ROWS as usize) {
            let rows = start..seq_q.min(start + MOST_ROWS);
            // Without the mask, every row sees the keys of all of them.
            let keys = if case.causal { before + rows.end } else { seq_k };
            for range in [appended..before.max(appended), before.max(appended)..keys] {
                let past = range.start;
                cache.append(
                    self,
                    (&case.k, case.k_shape),
                    (&case.v, case.v_shape),
                    range,
                    past,
                )?;
            }
            appended = keys;
            let n = rows.end - rows.start;
            let lens = gpu.upload_u32(&vec![keys; batch as usize]);
            let part_lse = gpu.output((batch * heads_out * n) as usize, DType::F32);
            let bindings = DecodeBindings {
                q: part(&q, q_heads, &rows, head_dim)?,
                cache: cache.bind(),
                kv_lens: lens.as_entire_buffer_binding(),
                out: part(&out, heads_out, &rows, value_dim)?,
                lse: Some(part_lse.as_entire_buffer_binding()),
                rotation: cache.table().map(|table| table.at(Positions::AmongKeys)),
                bias: None,
                workspace: Some(workspace.as_entire_buffer_binding()),
            };
            let shape = DecodeShape { batch, seq_q: n };
            self.run(&kernel, &shape, &bindings)?;
            let part_lse = self.download(&part_lse, (batch * heads_out * n) as usize);
            let heads = lse.chunks_exact_mut(seq_q as usize);
            for (head, part) in heads.zip(part_lse.chunks_exact(n as usize)) {
                head[rows.start as usize..rows.end as usize].copy_from_slice(part);
            }
        }
        Ok(oracle::Attended { out: self.download(&out, out_len), lse })
    }

    /// A kernel that cuts the keys, whatever their number.
    pub(super) fn decode_kernel(&self, problem: &DecodeProblem) -> Result<Decode> {
        let caps = self.gpu.capabilities();
        let mut tile = *problem.plan(&caps)?.tile();
        // More rows are more blocks of rows. All 16 states that the plan would choose take lavapipe
        // minutes to compile; fewer keys an invocation do not help, since more is unrolled then.
        tile.rows = tile.rows.min(TILE_ROWS);
        let plan = DecodePlan::with_parts(problem, &caps, tile, SPLITS)?;
        let mut known = self.decodes.borrow_mut();
        for other in known.iter() {
            if let Some(kernel) = other.reuse(&self.gpu.device, &plan)? {
                return Ok(kernel);
            }
        }
        known.push(Decode::new(&self.gpu.device, &plan)?);
        Ok(known[known.len() - 1].clone())
    }

    pub(super) fn append_kernel(&self, problem: &KvAppendProblem) -> Result<KvAppend> {
        let mut known = self.appends.borrow_mut();
        if let Some(kernel) = known.iter().find(|kernel| kernel.plan().problem() == problem) {
            return Ok(kernel.clone());
        }
        let plan = problem.plan(&self.gpu.capabilities())?;
        known.push(KvAppend::new(&self.gpu.device, &plan)?);
        Ok(known[known.len() - 1].clone())
    }

    /// The cache of a case after a long append and one of all the rows behind it.
    pub(super) fn cached(&self, case: &CacheCase, slots: Slots) -> Result<[Vec<f64>; 2]> {
        let [batch, kv_heads, seq, head_dim] = case.k_shape;
        let dims = [head_dim, case.v_shape[3]];
        let rotation = Some(&case.rotation);
        let cache = Cache::new(self, slots, [batch, kv_heads], dims, seq, rotation)?;
        for range in [0..case.prefill, case.prefill..seq] {
            let past = range.start;
            cache.append(self, (&case.k, case.k_shape), (&case.v, case.v_shape), range, past)?;
        }
        Ok([cache.read(0, seq), cache.read(1, seq)])
    }

    /// Parts through the merge kernel.
    pub(super) fn merged(&self, case: &MergeCase) -> Result<oracle::Attended<f64>> {
        let gpu = self.gpu;
        let [batch, heads, seq, dim] = case.shape;
        let parts = case.parts.len() as u32;
        let problem = MergeProblem { lse: true, ..MergeProblem::new(dim) };
        let kernel = Merge::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
        let (outs, lses): (Vec<_>, Vec<_>) = case.parts.iter().cloned().unzip();
        let (outs, lses) = (outs.concat(), lses.concat());
        let (out_len, lse_len) = (outs.len() / case.parts.len(), lses.len() / case.parts.len());
        let (outs, lses) = (gpu.upload(&outs, DType::F32), gpu.upload(&lses, DType::F32));
        let out = gpu.output(out_len, DType::F32);
        let lse = gpu.output(lse_len, DType::F32);
        let bindings = MergeBindings {
            parts: Tensor::new(&outs, DType::F32, Layout::bhsd([parts, batch * heads, seq, dim])?),
            lse_parts: lses.as_entire_buffer_binding(),
            out: Tensor::new(&out, DType::F32, Layout::bhsd(case.shape)?),
            lse: Some(lse.as_entire_buffer_binding()),
        };
        let shape = MergeShape { parts, batch, heads, seq };
        self.run(&kernel, &shape, &bindings)?;
        Ok(oracle::Attended {
            out: self.download(&out, out_len),
            lse: self.download(&lse, lse_len),
        })
    }
}
