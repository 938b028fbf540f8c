//! Decode on the device: compiles a [`DecodePlan`], binds tensors to it.

#[cfg(doc)]
use crate::gpu::Positions;
use crate::gpu::{
    Access, CacheBindings, CacheParams, Checker, Compiler, Dispatch, Pipeline, Reach, RotaryParams,
    Rotation, Strides, Tensor, params_buffer, uniform_buffer,
};
use crate::kernels::merge::{Merge, MergeBindings};
use crate::plan::attention::Bias;
use crate::plan::binding;
use crate::plan::decode::{DecodePlan, DecodeShape};
use crate::plan::merge::MergeShape;
use crate::plan::softmax::scale_and_cap;
use crate::uniform::uniform;
use crate::{DType, Error, Layout, Result};

/// A compiled decode kernel. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct Decode {
    plan: DecodePlan,
    pipeline: Pipeline,
    merge: Option<Merge>,
    programs: wgpu::Buffer,
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
    pub rotation: Option<Rotation<'a>>,
    /// Bias or mask, `[B, H_out, S_q, capacity]`: layout and binding, both in elements of the bias (f32,
    /// or bytes of a mask). Strides of 0 broadcast; keys are contiguous. Read.
    pub bias: Option<(Layout, wgpu::BufferBinding<'a>)>,
    /// [`DecodePlan::workspace_bytes`] of scratch memory, where that is not 0. Calls may share it:
    /// each is done with it when the next one starts.
    pub workspace: Option<wgpu::BufferBinding<'a>>,
}

impl<'a> DecodeBindings<'a> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(
        q: Tensor<'a>,
        cache: CacheBindings<'a>,
        kv_lens: wgpu::BufferBinding<'a>,
        out: Tensor<'a>,
    ) -> Self {
        Self { q, cache, kv_lens, out, lse: None, rotation: None, bias: None, workspace: None }
    }
}

uniform! {
    /// `Params` of `shaders/decode.wgsl`.
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
        q: Strides,
        out: Strides,
        cache: CacheParams,
        bias: Strides,
        rotary: RotaryParams,
    }
}

/// What the checks of a call find.
struct Checked {
    cache: CacheParams,
    rotary: RotaryParams,
    bias: Strides,
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
        let plan = plan.on(compiler.capabilities())?;
        Ok(Self {
            pipeline: Pipeline::new(compiler, plan.shader())?,
            merge: plan.merge().map(|merge| Merge::new(compiler, merge)).transpose()?,
            programs: Self::programs(compiler.device(), &plan)?,
            plan,
        })
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
        let plan = plan.on(compiler.capabilities())?;
        if plan.shader() != self.plan.shader() {
            return Ok(None);
        }
        let merge = plan.merge().map(|merge| Merge::new(compiler, merge)).transpose()?;
        let programs = Self::programs(compiler.device(), &plan)?;
        Ok(Some(Self { merge, programs, plan, ..self.clone() }))
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
        let checked = self.check(shape, bindings)?;
        let rows = self.rows(shape);
        let groups = self.plan.groups(shape);
        if groups == 0 || rows == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = self.plan.capabilities.fold_groups(groups)?;
        let merge = match (&self.merge, &bindings.workspace) {
            (Some(merge), Some(workspace)) => {
                Some(self.bind_merge(device, shape, bindings, merge, workspace)?)
            }
            _ => None,
        };
        let empty = checked.cache.capacity == 0;
        let params = Params { groups_x: workgroups[0], ..self.params(shape, bindings, checked) };
        let params = params_buffer(device, "decode params", &params)?;
        let call = self
            .pipeline
            .call()
            .bind(binding::PARAMS, params.as_entire_buffer_binding())
            .bind(binding::PROGRAMS, self.programs.as_entire_buffer_binding())
            .tensor(binding::Q, &bindings.q)
            .read_cache(&bindings.cache, empty)
            .bind(binding::KV_LENS, bindings.kv_lens.clone())
            .rotation(bindings.rotation.as_ref());
        let bias = bindings.bias.as_ref().map(|(_, binding)| binding);
        let call = match self.plan.problem().bias {
            Some(Bias::Mask) => call.optional(binding::MASK, bias),
            _ => call.optional(binding::BIAS, bias),
        };
        let call = match &bindings.workspace {
            Some(workspace) => call.bind(binding::PARTIALS, workspace.clone()),
            None => call
                .tensor(binding::OUT, &bindings.out)
                .optional(binding::LSE, bindings.lse.as_ref()),
        };
        let decode = call.dispatch(device, workgroups);
        Ok(Dispatch::sequence([decode].into_iter().chain(merge)))
    }

    /// Output rows of a call.
    fn rows(&self, shape: &DecodeShape) -> u64 {
        let heads = self.plan.problem().heads.heads().len() as u64;
        u64::from(shape.batch) * heads * u64::from(shape.seq_q)
    }

    fn check(&self, shape: &DecodeShape, bindings: &DecodeBindings<'_>) -> Result<Checked> {
        let p = self.plan.problem();
        let DecodeShape { batch, seq_q } = *shape;
        let limits = [("batch", batch, p.max_batch), ("seq_q", seq_q, p.max_seq_q)];
        for (what, got, most) in limits {
            if got > most {
                let needed = "at most what the problem was planned for";
                return Err(Error::Invalid { what, needed, got: format!("{got} of {most}") });
            }
        }
        let mut checker = Checker::new(&self.plan.capabilities);
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
        let rows = self.rows(shape);
        checker.optional("lse", p.lse, bindings.lse.as_ref(), Access::Write, 4 * rows)?;
        self.check_workspace(&mut checker, shape, bindings)?;
        // Every slot can be reached, whatever the device's lengths are. Rows before the first key
        // turn back, and see keys without a mask alone.
        let slots = if p.cache.rolling { 1 } else { cache.capacity };
        let places = slots.max(if p.causal { 0 } else { seq_q });
        let reach = Reach { ids: [batch, seq_q], rows: seq_q, places: Some(places) };
        let rotary_dim = p.rotate_q.then_some(p.rotary_dim);
        let rotation = bindings.rotation.as_ref();
        let rotary = RotaryParams::optional(&mut checker, rotation, rotary_dim, reach)?;
        let bias_shape = [batch, heads_out, seq_q, cache.capacity];
        let bias = checker.bias(p.bias, bindings.bias.as_ref(), bias_shape)?;
        Ok(Checked { cache, rotary, bias })
    }

    fn check_workspace(
        &self,
        checker: &mut Checker<'_>,
        shape: &DecodeShape,
        bindings: &DecodeBindings<'_>,
    ) -> Result<()> {
        let (_, bytes) = self.plan.workspace(shape);
        let given = bindings.workspace.as_ref();
        checker.optional("workspace", self.merge.is_some(), given, Access::Write, bytes)?;
        if bytes / 4 > u64::from(u32::MAX) {
            return Err(Error::IndexOverflow { tensor: "workspace", index: bytes / 4 });
        }
        Ok(())
    }

    /// All but the number of workgroups.
    fn params(
        &self,
        shape: &DecodeShape,
        bindings: &DecodeBindings<'_>,
        Checked { cache, rotary, bias }: Checked,
    ) -> Params {
        let p = self.plan.problem();
        let (q_scale, softcap) = scale_and_cap(p.softmax_scale, p.softcap);
        Params {
            batch: shape.batch,
            seq_q: shape.seq_q,
            heads_out: p.heads.heads().len() as u32,
            kv_heads: p.cache.kv_heads,
            row_blocks: self.plan.row_blocks(shape.seq_q),
            splits: self.plan.splits(),
            programs: self.plan.programs.each,
            causal: p.causal.into(),
            window: p.window.unwrap_or(0),
            q_scale,
            softcap,
            minus_infinity: f32::NEG_INFINITY,
            sums_at: (self.plan.workspace(shape).0 / 4) as u32,
            among_keys: bindings.rotation.as_ref().is_some_and(Rotation::among_keys).into(),
            q: Strides::new(&bindings.q.layout, 4),
            out: Strides::new(&bindings.out.layout, 4),
            cache,
            bias,
            rotary,
            ..Params::default()
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cache::CacheFormat;
    use crate::plan::decode::DecodeProblem;
    use crate::reflect::assert_uniform;
    use crate::{Capabilities, HeadMap};

    #[test]
    fn params_are_the_shaders() {
        let heads = HeadMap::ropepp(4).unwrap();
        let problem = DecodeProblem::new(heads, CacheFormat::new(2, 64), 1, 64);
        let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
        assert_uniform::<Params>(&plan.shader().source, "Params");
    }
}
