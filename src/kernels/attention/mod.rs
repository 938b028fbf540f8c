//! Fused attention on the device: compiles an [`AttentionPlan`], binds tensors to it.

mod bindings;
mod lists;
mod params;

#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::gpu::{Call, Checker, Compiler, Dispatch, Pipeline, UniformArray, uniform_buffer};
use crate::plan::attention::{AttentionPlan, AttentionShape, Bias, Bound, CutPart, Keys};
use crate::plan::{Budget, binding};
pub use bindings::{AttentionBindings, BlockList};
use params::{Lists, Params};
pub(crate) use params::{NO_WINDOW, causal_offset};

/// A compiled attention kernel. It belongs to the device it was made on, is cheap to clone, and
/// holds nothing that changes from call to call.
#[derive(Debug, Clone)]
pub struct Attention {
    plan: AttentionPlan,
    pipeline: Pipeline,
    programs: wgpu::Buffer,
}

impl Attention {
    /// Compiles `plan`, on a device or through a [`Compiler`]. Do this once for every configuration; it takes milliseconds on
    /// a GPU and can take seconds on a software adapter.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &AttentionPlan) -> Result<Self> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        Ok(Self {
            pipeline: Pipeline::new(compiler, plan.shader())?,
            programs: Self::programs(compiler.device(), &plan)?,
            plan,
        })
    }

    fn programs(device: &wgpu::Device, plan: &AttentionPlan) -> Result<wgpu::Buffer> {
        let table = plan.programs.table();
        uniform_buffer(device, "attention programs", bytemuck::cast_slice(&table))
    }

    /// A kernel for another plan with the very same shader, without compiling again: problems that
    /// differ in scale, mask, log-sum-exp or, within limits, head counts. `None` where the shaders
    /// differ.
    ///
    /// # Errors
    /// As [`Attention::new`].
    pub fn reuse<'a>(
        &self,
        compiler: impl Into<Compiler<'a>>,
        plan: &AttentionPlan,
    ) -> Result<Option<Self>> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        if plan.shader() != self.plan.shader() {
            return Ok(None);
        }
        let programs = Self::programs(compiler.device(), &plan)?;
        Ok(Some(Self { programs, plan, ..self.clone() }))
    }

    /// The plan that runs.
    pub fn plan(&self) -> &AttentionPlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, dtypes and
    /// limits; [`Error::Binding`] for a tensor that the problem needs and the call lacks, or the
    /// other way round; [`Error::TableTooShort`] where a query has a position past the table. The
    /// buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &AttentionShape,
        bindings: &AttentionBindings<'_>,
    ) -> Result<Dispatch> {
        self.bind_within(device, shape, bindings, Budget::UNLIMITED)
    }

    /// [`Attention::bind`] for a call in dispatches of at most `budget` each, as
    /// [`AttentionPlan::cut`] says. Record them one at a time ([`Dispatch::parts`]), in as many
    /// submissions as you like and with other work between them, or all at once. Every budget gives
    /// the same bits.
    ///
    /// # Errors
    /// As [`Attention::bind`] and [`AttentionPlan::cut`].
    pub fn bind_within(
        &self,
        device: &wgpu::Device,
        shape: &AttentionShape,
        bindings: &AttentionBindings<'_>,
        budget: Budget,
    ) -> Result<Dispatch> {
        let caps = &self.plan.capabilities;
        let cut = self.plan.cut(shape, budget)?;
        let mut checker = Checker::new(caps);
        let checked = bindings.check(&self.plan, &mut checker, shape, cut.workspace_bytes())?;
        if cut.parts().is_empty() || bindings.out.layout.is_empty() {
            return Ok(Dispatch::empty());
        }
        let mut params = Params::new(&self.plan, shape, bindings, checked)?;
        let packed = match self.plan.bound.lists {
            true => lists::pack(bindings, caps)?,
            false => None,
        };
        if self.plan.bound.lists {
            // Without any list, all keys are there.
            let none = Lists { kv_lens: u32::MAX, ..Lists::default() };
            params.lists = packed.as_ref().map_or(none, |(_, lists)| *lists);
        }
        let workgroups = |part: &CutPart| caps.fold_groups(part.groups.into());
        let parts = cut.parts().iter().map(|part| Ok(params.part(part, workgroups(part)?[0])));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let params = UniformArray::new(device, "attention params", caps.uniform_alignment, &parts)?;
        let all_keys;
        let lens = match (&bindings.cu_seqlens_k, &bindings.kv_lens) {
            _ if self.plan.bound.lists => packed.map(|(binding, _)| binding),
            (Some(lens), _) | (None, Some(lens)) => Some(lens.clone()),
            (None, None) => {
                let all = vec![shape.seq_k; shape.batch as usize];
                let bytes = bytemuck::cast_slice(&all);
                all_keys = uniform_buffer(device, "attention: all keys", bytes)?;
                Some(all_keys.as_entire_buffer_binding())
            }
        };
        let call = self.call(bindings, lens);
        let mut dispatches = Vec::new();
        for (n, part) in cut.parts().iter().enumerate() {
            // Parts differ in their parameters alone.
            let call = call.clone().bind(binding::PARAMS, params.element(n));
            dispatches.push(call.dispatch(device, workgroups(part)?).executing(part.flops));
        }
        Ok(Dispatch::sequence(dispatches))
    }

    /// What the parts of a call have in common.
    fn call<'a>(
        &'a self,
        bindings: &AttentionBindings<'a>,
        lens: Option<wgpu::BufferBinding<'a>>,
    ) -> Call<'a> {
        let problem = self.plan.problem();
        let Bound { lse, lists } = self.plan.bound;
        let lens_at = match problem.keys {
            _ if lists => binding::LISTS,
            Keys::Ragged => binding::CU_SEQLENS_K,
            Keys::Batched | Keys::Cache(_) => binding::KV_LENS,
        };
        let bias_at = match problem.bias {
            Some(Bias::Mask) => binding::MASK,
            _ => binding::BIAS,
        };
        // Lists that share a buffer are bound already.
        let apart = |list: Option<_>| list.filter(|_| !lists);
        let blocks = bindings.block_list.as_ref().map(|list| &list.binding);
        let mut cache = bindings.cache.clone();
        cache.block_table = cache.block_table.filter(|_| !lists);
        let call = self
            .pipeline
            .call()
            .bind(binding::PROGRAMS, self.programs.as_entire_buffer_binding())
            .tensor(binding::Q, &bindings.q)
            .read_cache(&cache, cache.k.layout.is_empty())
            .tensor(binding::OUT, &bindings.out)
            .optional(binding::OUT_IM, bindings.out_im.as_ref().map(|tensor| &tensor.binding))
            .rotation(bindings.rotation.as_ref())
            .read(lens_at, lens.as_ref())
            .optional(binding::CU_SEQLENS_Q, apart(bindings.cu_seqlens_q.as_ref()))
            .optional(bias_at, bindings.bias.as_ref().map(|(_, binding)| binding))
            .optional(binding::PREFIX_LENS, apart(bindings.prefix_lens.as_ref()))
            .optional(binding::BLOCKS, apart(blocks));
        let call = match lse {
            true => call.written(binding::LSE, bindings.lse.as_ref()),
            false => call,
        };
        match problem.resumable {
            true => call.written(binding::STATE, bindings.workspace.as_ref()),
            false => call,
        }
    }
}
