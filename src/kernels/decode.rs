//! Decode on the device: compiles a [`DecodePlan`], binds tensors to it.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{
    Access, BLOCK_TABLE, Bind, COS_SIN, CacheBindings, CacheParams, CacheRows, Checker, Compiler,
    CosSin, Dispatch, POSITION_IDS, Pipeline, Positions, RotaryParams, Tensor, Unused, present,
    uniform_buffer,
};
use crate::kernels::merge::{Merge, MergeBindings};
use crate::plan::Capabilities;
use crate::plan::decode::{DecodePlan, DecodeShape};
use crate::plan::merge::MergeShape;
use crate::{DType, Error, Layout, Result};

/// A compiled decode kernel. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct Decode {
    plan: DecodePlan,
    pipeline: Pipeline,
    merge: Option<Merge>,
    programs: wgpu::Buffer,
    unused: Unused,
}

/// The tensors of one decode call. Lengths, block table and position ids are read when the call
/// runs, so they may change from call to call without a new bind.
#[derive(Debug, Clone)]
pub struct DecodeBindings<'a> {
    /// `[B, H_q, S_q, D]`, read. Strides and offset are multiples of 4 elements, here and below.
    pub q: Tensor<'a>,
    /// The cache, read; the new rows are in it already.
    pub cache: CacheBindings<'a>,
    /// Rows of each sequence, the S_q new ones included, u32 `[B]`, read. A length above the
    /// capacity counts as the capacity, unless the cache rolls.
    pub kv_lens: wgpu::BufferBinding<'a>,
    /// `[B, H_out, S_q, D_v]`, heads in the order of the head map; written.
    pub out: Tensor<'a>,
    /// Natural log-sum-exp of every output row, f32 `[B, H_out, S_q]` without gaps; written. −∞ in
    /// rows that see no key.
    pub lse: Option<wgpu::BufferBinding<'a>>,
    /// Table and positions of q, where the kernel rotates it. With [`Positions::AmongKeys`],
    /// row i of sequence b has position `kv_lens[b] − S_q + i`, causal or not. Where the sequence is
    /// shorter than the call that is negative for the first rows, which turn back by as much;
    /// without a causal mask they see all keys, and the table must have S_q positions for them.
    pub rotation: Option<(CosSin<'a>, Positions<'a>)>,
    /// Bias or mask, `[B, H_out, S_q, capacity]`: layout and binding, both in elements of the bias (f32,
    /// or bytes of a mask). Strides of 0 broadcast; keys are contiguous. Read.
    pub bias: Option<(Layout, wgpu::BufferBinding<'a>)>,
    /// [`DecodePlan::workspace_bytes`] of scratch memory, where that is not 0. Calls may share it:
    /// each is done with it when the next one starts.
    pub workspace: Option<wgpu::BufferBinding<'a>>,
}

/// Binding numbers, by the names of the shader's files.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const PROGRAMS: u32 = 1;
    pub(super) const Q: u32 = 2;
    pub(super) const K: u32 = 3;
    pub(super) const V: u32 = 4;
    /// `out`, or `partials`.
    pub(super) const OUT: u32 = 5;
    pub(super) const LSE: u32 = 7;
    pub(super) const KV_LENS: u32 = 10;
    pub(super) const BIAS: u32 = 13;
}

/// `Entries` of `shaders/decode.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
struct Entries {
    offset: u32,
    batch: u32,
    head: u32,
    row: u32,
}

impl Entries {
    fn new(layout: &Layout) -> Self {
        let [batch, head, row] = layout.strides;
        Self { offset: layout.offset, batch, head, row }
    }
}

/// `Params` of `shaders/decode.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Params {
    batch: u32,
    seq_q: u32,
    heads_out: u32,
    kv_heads: u32,
    groups_x: u32,
    row_blocks: u32,
    splits: u32,
    programs: u32,
    causal: u32,
    window: u32,
    q_scale: f32,
    softcap: f32,
    minus_infinity: f32,
    sums_at: u32,
    among_keys: u32,
    zero: u32,
    q: CacheRows,
    out: CacheRows,
    cache: CacheParams,
    bias: Entries,
    rotary: RotaryParams,
}

impl Decode {
    /// Compiles `plan`, on a device or through a [`Compiler`]. Do this once for every configuration; it takes milliseconds on
    /// a GPU and can take seconds on a software adapter.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &DecodePlan) -> Result<Self> {
        let compiler = compiler.into();
        let device = compiler.device();
        let plan = Self::replan(device, plan)?;
        Ok(Self {
            pipeline: Pipeline::new(compiler, plan.shader())?,
            merge: plan.merge().map(|merge| Merge::new(compiler, merge)).transpose()?,
            programs: Self::programs(device, &plan)?,
            unused: Unused::new(device)?,
            plan,
        })
    }

    /// The same plan, every check repeated against the real device.
    fn replan(device: &wgpu::Device, plan: &DecodePlan) -> Result<DecodePlan> {
        let caps = Capabilities::of(device);
        DecodePlan::with_parts(plan.problem(), &caps, *plan.tile(), plan.splits())
    }

    fn programs(device: &wgpu::Device, plan: &DecodePlan) -> Result<wgpu::Buffer> {
        let table = plan.programs.table();
        uniform_buffer(device, "decode programs", bytemuck::cast_slice(&table))
    }

    /// A kernel for another plan with the very same shader, without compiling that again: problems
    /// that differ in scale, mask, window, softcap, maxima or, within limits, head counts. `None`
    /// where the shaders differ.
    ///
    /// # Errors
    /// As [`Decode::new`].
    pub fn reuse<'a>(
        &self,
        compiler: impl Into<Compiler<'a>>,
        plan: &DecodePlan,
    ) -> Result<Option<Self>> {
        let compiler = compiler.into();
        let device = compiler.device();
        let plan = Self::replan(device, plan)?;
        if plan.shader() != self.plan.shader() {
            return Ok(None);
        }
        let merge = plan.merge().map(|merge| Merge::new(compiler, merge)).transpose()?;
        Ok(Some(Self { merge, programs: Self::programs(device, &plan)?, plan, ..self.clone() }))
    }

    /// The plan that runs.
    pub fn plan(&self) -> &DecodePlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, storage and
    /// limits; [`Error::Invalid`] for a call beyond the problem's maxima, or a window that a rolling
    /// cache has no room for; [`Error::Binding`] for a tensor too many or too few;
    /// [`Error::TableTooShort`] where a slot of the cache (unless it rolls) has a position past the
    /// table. The buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &DecodeShape,
        bindings: &DecodeBindings<'_>,
    ) -> Result<Dispatch> {
        let p = self.plan.problem();
        let caps = &self.plan.capabilities;
        let DecodeShape { batch, seq_q } = *shape;
        let limits = [("batch", batch, p.max_batch), ("seq_q", seq_q, p.max_seq_q)];
        for (what, got, most) in limits {
            if got > most {
                let needed = "at most what the problem was planned for";
                return Err(Error::Invalid { what, needed, got: format!("{got} of {most}") });
            }
        }
        let mut checker = Checker::new(caps);
        let q_shape = [batch, p.heads.q_heads(), seq_q, p.cache.head_dim];
        checker.tensor("q", &bindings.q, Access::Read, p.q_dtype, q_shape, 4)?;
        let cache = CacheParams::new(&mut checker, &p.cache, &bindings.cache, Access::Read, batch)?;
        if let Some(window) = p.window.filter(|_| p.cache.rolling)
            && u64::from(window) + u64::from(seq_q) > u64::from(cache.capacity) + 1
        {
            return Err(Error::Invalid {
                what: "window",
                needed: "window + seq_q - 1 <= capacity of a rolling cache",
                got: format!("{window} + {seq_q} - 1 of {}", cache.capacity),
            });
        }
        checker.binding("kv_lens", &bindings.kv_lens, Access::Read, 4 * u64::from(batch))?;
        let heads_out = p.heads.heads().len() as u32;
        let out_shape = [batch, heads_out, seq_q, p.cache.value_dim];
        checker.tensor("out", &bindings.out, Access::Write, p.out_dtype, out_shape, 4)?;
        let rows = u64::from(batch) * u64::from(heads_out) * u64::from(seq_q);
        present("lse", p.lse, bindings.lse.is_some())?;
        if let Some(lse) = &bindings.lse {
            checker.binding("lse", lse, Access::Write, 4 * rows)?;
        }
        let (sums_at, workspace_bytes) = self.plan.workspace(shape);
        present("workspace", self.merge.is_some(), bindings.workspace.is_some())?;
        if let Some(workspace) = &bindings.workspace {
            checker.binding("workspace", workspace, Access::Write, workspace_bytes)?;
        }
        present("rotation", p.rotate_q, bindings.rotation.is_some())?;
        let rotary = match &bindings.rotation {
            None => RotaryParams::default(),
            Some((table, positions)) => {
                let (positions, reach) = match positions {
                    // Every slot can be reached, whatever the device's lengths are.
                    Positions::AmongKeys => {
                        let slots = if p.cache.rolling { 1 } else { cache.capacity };
                        // Rows before the first key turn back, and see keys without a mask alone.
                        let before = if p.causal { 0 } else { seq_q };
                        (&FIRST, [batch, slots.max(before)])
                    }
                    given => (given, [batch, seq_q]),
                };
                RotaryParams::new(&mut checker, table, positions, p.rotary_dim, reach)?
            }
        };
        present("bias", p.bias.is_some(), bindings.bias.is_some())?;
        if let (Some(kind), Some(bias)) = (p.bias, &bindings.bias) {
            checker.bias(kind, bias, [batch, heads_out, seq_q, cache.capacity])?;
        }
        let bias = bindings.bias.as_ref();
        let row_blocks = self.plan.row_blocks(seq_q);
        let splits = self.plan.splits();
        let groups = [batch, p.cache.kv_heads, row_blocks, splits]
            .iter()
            .fold(1u64, |n, &factor| n.saturating_mul(factor.into()));
        if groups == 0 || rows == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = caps.fold_groups(groups)?;
        if workspace_bytes / 4 > u64::from(u32::MAX) {
            return Err(Error::IndexOverflow { tensor: "workspace", index: workspace_bytes / 4 });
        }
        // A cap takes scores as multiples of itself, the softmax in base 2.
        let scale = f64::from(p.softmax_scale);
        let (q_scale, softcap) = match p.softcap {
            Some(cap) => (
                scale / f64::from(cap),
                (f64::from(cap) * core::f64::consts::LOG2_E).min(f32::MAX.into()),
            ),
            None => (scale * core::f64::consts::LOG2_E, 0.0),
        };
        let params = Params {
            batch,
            seq_q,
            heads_out,
            kv_heads: p.cache.kv_heads,
            groups_x: workgroups[0],
            row_blocks,
            splits,
            programs: self.plan.programs.each,
            causal: u32::from(p.causal),
            window: p.window.unwrap_or(0),
            q_scale: q_scale as f32,
            softcap: softcap as f32,
            minus_infinity: f32::NEG_INFINITY,
            sums_at: (sums_at / 4) as u32,
            among_keys: u32::from(matches!(bindings.rotation, Some((_, Positions::AmongKeys)))),
            zero: 0,
            q: CacheRows::new(&bindings.q.layout, 4),
            out: CacheRows::new(&bindings.out.layout, 4),
            cache,
            bias: bias.map_or(Entries::default(), |(layout, _)| Entries::new(layout)),
            rotary,
        };
        let params = uniform_buffer(device, "decode params", bytemuck::bytes_of(&params))?;
        let out = match &bindings.workspace {
            Some(workspace) => workspace.clone(),
            None => bindings.out.binding.clone(),
        };
        // An empty cache may have no buffer that could be bound: nothing reads it.
        let [k, v] = [&bindings.cache.k, &bindings.cache.v].map(|side| match cache.capacity {
            0 => self.unused.read(),
            _ => side.binding.clone(),
        });
        let mut entries = vec![
            (binding::PARAMS, params.as_entire_buffer_binding()),
            (binding::PROGRAMS, self.programs.as_entire_buffer_binding()),
            (binding::Q, bindings.q.binding.clone()),
            (binding::K, k),
            (binding::V, v),
            (binding::OUT, out),
            (binding::KV_LENS, bindings.kv_lens.clone()),
        ];
        if let Some(lse) = bindings.lse.as_ref().filter(|_| self.merge.is_none()) {
            entries.push((binding::LSE, lse.clone()));
        }
        if let Some(table) = &bindings.cache.block_table {
            entries.push((BLOCK_TABLE, table.binding.clone()));
        }
        if let Some((_, bias)) = &bindings.bias {
            entries.push((binding::BIAS, bias.clone()));
        }
        if let Some((table, positions)) = &bindings.rotation {
            entries.push((COS_SIN, table.binding.clone()));
            entries.push((
                POSITION_IDS,
                match positions {
                    Positions::Ids { binding, .. } => binding.clone(),
                    _ => self.unused.read(),
                },
            ));
        }
        let merge = match (&self.merge, &bindings.workspace) {
            (Some(merge), Some(workspace)) => {
                Some(self.bind_merge(device, shape, bindings, merge, workspace)?)
            }
            _ => None,
        };
        let bind =
            Bind { label: "decode", pipeline: &self.pipeline, entries: &entries, workgroups };
        let decode = Dispatch::new(device, &bind);
        Ok(match merge {
            Some(merge) => Dispatch::sequence([decode, merge]),
            None => decode,
        })
    }

    /// The second dispatch, over the two parts of the workspace.
    fn bind_merge(
        &self,
        device: &wgpu::Device,
        shape: &DecodeShape,
        bindings: &DecodeBindings<'_>,
        merge: &Merge,
        workspace: &wgpu::BufferBinding<'_>,
    ) -> Result<Dispatch> {
        let p = self.plan.problem();
        let DecodeShape { batch, seq_q } = *shape;
        let heads = p.heads.heads().len() as u32;
        let (sums_at, bytes) = self.plan.workspace(shape);
        let part = |from: u64, to: u64| wgpu::BufferBinding {
            buffer: workspace.buffer,
            offset: workspace.offset + from,
            size: wgpu::BufferSize::new(to - from),
        };
        let splits = self.plan.splits();
        let parts = MergeBindings {
            parts: Tensor {
                binding: part(0, sums_at),
                dtype: DType::F32,
                layout: Layout::bhsd([splits, batch * heads, seq_q, p.cache.value_dim])?,
            },
            lse_parts: part(sums_at, bytes),
            out: bindings.out.clone(),
            lse: bindings.lse.clone(),
        };
        merge.bind(device, &MergeShape { parts: splits, batch, heads, seq: seq_q }, &parts)
    }
}

/// Places among the keys, without an offset.
const FIRST: Positions<'static> = Positions::From(0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadMap;
    use crate::plan::cache::CacheFormat;
    use crate::plan::decode::DecodeProblem;
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};

    host_struct!(Entries { offset, batch, head, row });

    host_struct!(Params {
        batch,
        seq_q,
        heads_out,
        kv_heads,
        groups_x,
        row_blocks,
        splits,
        programs,
        causal,
        window,
        q_scale,
        softcap,
        minus_infinity,
        sums_at,
        among_keys,
        zero,
        q,
        out,
        cache,
        bias,
        rotary,
    });

    fn source(paged: bool, max_kv: u32) -> String {
        let cache = CacheFormat { paged, ..CacheFormat::new(2, 64) };
        let mut problem = DecodeProblem::new(HeadMap::ropepp(4).unwrap(), cache, 1, max_kv);
        problem.lse = true;
        problem.plan(&Capabilities::webgpu_default()).unwrap().shader().source.clone()
    }

    #[test]
    fn host_struct_is_the_shaders() {
        assert_eq!(host_layout::<Params>(), wgsl_layout(&source(false, 64), "Params"));
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        for (paged, max_kv) in [(false, 64), (true, 64), (false, 4096), (true, 4096)] {
            let partial = max_kv == 4096;
            let mut all = vec![
                (binding::PARAMS, "params"),
                (binding::PROGRAMS, "programs"),
                (binding::Q, "q"),
                (binding::K, "k"),
                (binding::V, "v"),
                (binding::OUT, if partial { "partials" } else { "out" }),
            ];
            if !partial {
                all.push((binding::LSE, "lse"));
            }
            all.extend([(COS_SIN, "cos_sin"), (POSITION_IDS, "position_ids")]);
            all.push((binding::KV_LENS, "kv_lens"));
            if paged {
                all.push((BLOCK_TABLE, "block_table"));
            }
            let all: Vec<_> = all.into_iter().map(|(n, name)| (n, name.to_owned())).collect();
            assert_eq!(wgsl_bindings(&source(paged, max_kv)), all);
        }
    }
}
