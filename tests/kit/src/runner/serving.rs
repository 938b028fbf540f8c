//! Cases of few query rows as a server runs them: keys and values appended to a cache, then decode
//! with split keys and their merge.

use std::ops::Range;

use phasor::{
    DType, Layout, Tensor,
    gpu::{CacheBindings, CacheTensor, Positions},
    kernels::{
        decode::{Decode, DecodeBindings},
        kv_append::{KvAppend, KvAppendBindings},
        merge::{Merge, MergeBindings},
    },
    oracle,
    plan::{
        cache::{CacheFormat, CacheType},
        decode::{DecodePlan, DecodeProblem, DecodeShape},
        kv_append::{KvAppendProblem, KvAppendShape},
        merge::{MergeProblem, MergeShape},
    },
    wgpu,
};

use super::Device;
use crate::cases::{AttentionCase, CacheCase, MergeCase, Result, Rotation};

/// Slots of a cache behind the last row: they stay NaN.
const SPARE: u32 = 3;
/// Splits of the keys: enough that the merge has work, and some of them may be empty.
const SPLITS: u32 = 3;

/// The caches of a case, `[B, H_kv, S_k + SPARE, D]`.
struct Caches {
    format: CacheFormat,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    layouts: [Layout; 2],
}

impl Caches {
    fn bind(&self) -> CacheBindings<'_> {
        fn tensor(buffer: &wgpu::Buffer, layout: Layout) -> CacheTensor<'_> {
            let binding = buffer.as_entire_buffer_binding();
            CacheTensor { binding, stored: CacheType::F32, layout }
        }
        CacheBindings {
            k: tensor(&self.k, self.layouts[0]),
            v: tensor(&self.v, self.layouts[1]),
            block_table: None,
        }
    }
}

/// Whether rows stand where they are rotated to: key j at position j.
fn in_place(rotation: &Rotation, rows: Range<u32>) -> bool {
    rotation.positions.len() == 1 && rotation.positions[0].iter().copied().eq(rows)
}

impl Device<'_> {
    /// Appends the rows of a case, those from `cut` on in a call of their own.
    fn append(
        &self,
        (k, k_shape): (&[f32], [u32; 4]),
        (v, v_shape): (&[f32], [u32; 4]),
        rotation: Option<&Rotation>,
        cut: u32,
    ) -> Result<Caches> {
        let gpu = self.gpu;
        let [batch, kv_heads, seq, head_dim] = k_shape;
        let value_dim = v_shape[3];
        let format = CacheFormat { value_dim, ..CacheFormat::new(kv_heads, head_dim) };
        let mut problem = KvAppendProblem { rotate: false, ..KvAppendProblem::new(format) };
        let mut table = None;
        if let Some(rotation) = rotation {
            problem.rotate = true;
            problem.rotary_dim = rotation.config.rotary_dim;
            problem.pairing = rotation.config.pairing;
            let mut longer = rotation.clone();
            longer.positions[0].extend(seq..seq + SPARE);
            table = Some(self.table(&longer)?);
        }
        let kernel = KvAppend::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
        let capacity = seq + SPARE;
        let layouts =
            [head_dim, value_dim].map(|dim| Layout::bhsd([batch, kv_heads, capacity, dim]));
        let [k_layout, v_layout] = layouts;
        let layouts = [k_layout?, v_layout?];
        let blank = |layout: &Layout| gpu.output(layout.elements() as usize, DType::F32);
        let caches = Caches { format, k: blank(&layouts[0]), v: blank(&layouts[1]), layouts };
        let (k, v) = (gpu.upload(k, DType::F32), gpu.upload(v, DType::F32));
        for rows in [0..cut, cut..seq] {
            let part = |buffer, shape: [u32; 4]| -> Result<Tensor<'_>> {
                let whole = Layout::bhsd(shape)?;
                let shape = [shape[0], shape[1], rows.end - rows.start, shape[3]];
                let offset = rows.start * shape[3];
                Ok(Tensor::new(buffer, DType::F32, Layout { shape, offset, ..whole }))
            };
            let lens = gpu.upload_u32(&vec![rows.start; batch as usize]);
            let bindings = KvAppendBindings {
                k: part(&k, k_shape)?,
                v: part(&v, v_shape)?,
                cache: caches.bind(),
                lens: lens.as_entire_buffer_binding(),
                rotation: table.as_ref().map(|table| (table.bind(), Positions::AmongKeys)),
            };
            let shape = KvAppendShape::new(batch, rows.end - rows.start);
            let call = kernel.bind(&gpu.device, &shape, &bindings)?;
            self.run(&call)?;
        }
        Ok(caches)
    }

    /// A case through cache and decode; `None` for one that decode is not for.
    pub(super) fn decode(&self, case: &AttentionCase) -> Result<Option<oracle::Attention<f64>>> {
        let [batch, _, seq_q, head_dim] = case.q_shape;
        let [_, _, seq_k, _] = case.k_shape;
        let value_dim = case.v_shape[3];
        let first = seq_k.saturating_sub(seq_q);
        let stands = case.rotations.as_ref().is_none_or(|[queries, keys]| {
            in_place(queries, first..seq_k) && in_place(keys, 0..seq_k)
        });
        let dims = head_dim.is_multiple_of(8) && value_dim.is_multiple_of(8);
        if seq_q == 0 || seq_q > 16 || seq_q > seq_k || case.kv_lens.is_some() || !stands || !dims {
            return Ok(None);
        }
        let gpu = self.gpu;
        let keys = case.rotations.as_ref().map(|[_, keys]| keys);
        let caches = self.append((&case.k, case.k_shape), (&case.v, case.v_shape), keys, first)?;
        let (rotary_dim, pairing) = case.pairs();
        let problem = DecodeProblem {
            rotary_dim,
            pairing,
            rotate_q: case.rotations.is_some(),
            causal: case.causal,
            window: case.variant.window,
            softcap: case.variant.softcap.map(|cap| cap as f32),
            sinks: case.variant.sinks.clone(),
            softmax_scale: case.softmax_scale as f32,
            lse: true,
            max_seq_q: seq_q,
            ..DecodeProblem::new(case.heads.clone(), caches.format, batch, seq_k)
        };
        let caps = gpu.capabilities();
        let tile = *problem.plan(&caps)?.tile();
        let plan = DecodePlan::with_parts(&problem, &caps, tile, SPLITS)?;
        let kernel = self.decode_kernel(&plan)?;

        let elements = |shape: [u32; 4]| shape.iter().map(|&n| n as usize).product::<usize>();
        let (out_len, lse_len) = (elements(case.out_shape()), elements(case.lse_shape()));
        let q = gpu.upload(&case.q, DType::F32);
        let out = gpu.output(out_len, DType::F32);
        let lse = gpu.output(lse_len, DType::F32);
        let lens = gpu.upload_u32(&vec![seq_k; batch as usize]);
        let workspace = gpu.output(plan.workspace_bytes() as usize / 4, DType::F32);
        let table = case.rotations.as_ref().map(|[queries, _]| {
            let mut longer = queries.clone();
            longer.positions[0].extend(seq_k..seq_k + SPARE);
            self.table(&longer)
        });
        let table = table.transpose()?;
        let bindings = DecodeBindings {
            q: Tensor::new(&q, DType::F32, Layout::bhsd(case.q_shape)?),
            cache: caches.bind(),
            kv_lens: lens.as_entire_buffer_binding(),
            out: Tensor::new(&out, DType::F32, Layout::bhsd(case.out_shape())?),
            lse: Some(lse.as_entire_buffer_binding()),
            rotation: table.as_ref().map(|table| (table.bind(), Positions::AmongKeys)),
            workspace: Some(workspace.as_entire_buffer_binding()),
        };
        let call = kernel.bind(&gpu.device, &DecodeShape { batch, seq_q }, &bindings)?;
        self.run(&call)?;
        Ok(Some(oracle::Attention {
            out: self.download(&out, out_len),
            lse: self.download(&lse, lse_len),
        }))
    }

    fn decode_kernel(&self, plan: &DecodePlan) -> Result<Decode> {
        let mut known = self.decodes.borrow_mut();
        for other in known.iter() {
            if let Some(kernel) = other.reuse(&self.gpu.device, plan)? {
                return Ok(kernel);
            }
        }
        known.push(Decode::new(&self.gpu.device, plan)?);
        Ok(known[known.len() - 1].clone())
    }

    /// The cache of a case after a long append and one of each row behind it.
    pub(super) fn cached(&self, case: &CacheCase) -> Result<[Vec<f64>; 2]> {
        let (k, v) = ((&case.k[..], case.k_shape), (&case.v[..], case.v_shape));
        let caches = self.append(k, v, Some(&case.rotation), case.prefill)?;
        let read = |buffer: &wgpu::Buffer, layout: &Layout, shape: [u32; 4]| {
            let all = self.gpu.download(buffer, DType::F32);
            let row = |b, h, s| layout.index(b, h, s, 0);
            let [batch, heads, seq, dim] = shape;
            let mut out = Vec::new();
            for b in 0..batch {
                for h in 0..heads {
                    for s in 0..seq {
                        out.extend(
                            all[row(b, h, s)..][..dim as usize].iter().map(|&x| f64::from(x)),
                        );
                    }
                }
            }
            out
        };
        Ok([
            read(&caches.k, &caches.layouts[0], case.k_shape),
            read(&caches.v, &caches.layouts[1], case.v_shape),
        ])
    }

    /// Parts through the merge kernel.
    pub(super) fn merged(&self, case: &MergeCase) -> Result<oracle::Attention<f64>> {
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
        let call = kernel.bind(&gpu.device, &shape, &bindings)?;
        self.run(&call)?;
        Ok(oracle::Attention {
            out: self.download(&out, out_len),
            lse: self.download(&lse, lse_len),
        })
    }
}
