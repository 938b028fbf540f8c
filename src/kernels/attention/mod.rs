//! Fused attention on the device: compiles an [`AttentionPlan`], binds tensors to it.

mod bindings;
mod params;

#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::gpu::{
    BLOCK_TABLE, Bind, COS_SIN, Checker, Compiler, Dispatch, POSITION_IDS, Pipeline, Positions,
    UniformArray, Unused, uniform_buffer,
};
use crate::plan::Budget;
use crate::plan::attention::{AttentionPlan, AttentionShape, CutPart, Keys};
pub use bindings::{AttentionBindings, BlockList};
use params::Params;

/// A compiled attention kernel. It belongs to the device it was made on, is cheap to clone, and
/// holds nothing that changes from call to call.
#[derive(Debug, Clone)]
pub struct Attention {
    plan: AttentionPlan,
    pipeline: Pipeline,
    programs: wgpu::Buffer,
    unused: Unused,
}

/// Binding numbers, by the names of `shaders/attention.wgsl`, `shaders/attention/` and
/// `shaders/io/`.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const PROGRAMS: u32 = 1;
    pub(super) const Q: u32 = 2;
    pub(super) const K: u32 = 3;
    pub(super) const V: u32 = 4;
    pub(super) const OUT: u32 = 5;
    pub(super) const OUT_IM: u32 = 6;
    pub(super) const LSE: u32 = 7;
    /// kv_lens, or cu_seqlens_k of ragged keys.
    pub(super) const LENS: u32 = 10;
    pub(super) const CU_SEQLENS_Q: u32 = 12;
    /// bias, or mask.
    pub(super) const BIAS: u32 = 13;
    pub(super) const PREFIX_LENS: u32 = 14;
    pub(super) const BLOCKS: u32 = 15;
    pub(super) const STATE: u32 = 16;
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
        let device = compiler.device();
        let plan = Self::replan(device, plan)?;
        Ok(Self {
            pipeline: Pipeline::new(compiler, plan.shader())?,
            programs: Self::programs(device, &plan)?,
            unused: Unused::new(device)?,
            plan,
        })
    }

    /// The same plan, every check repeated against the real device.
    fn replan(device: &wgpu::Device, plan: &AttentionPlan) -> Result<AttentionPlan> {
        let caps = crate::Capabilities::of(device).quarantined_as(&plan.capabilities);
        AttentionPlan::with_tile(plan.problem(), &caps, *plan.tile())
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
    pub fn reuse(&self, device: &wgpu::Device, plan: &AttentionPlan) -> Result<Option<Self>> {
        let plan = Self::replan(device, plan)?;
        if plan.shader() != self.plan.shader() {
            return Ok(None);
        }
        Ok(Some(Self { programs: Self::programs(device, &plan)?, plan, ..self.clone() }))
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
        let problem = self.plan.problem();
        let caps = &self.plan.capabilities;
        let cut = self.plan.cut(shape, budget)?;
        let mut checker = Checker::new(caps);
        let (cache, rotary) =
            bindings.check(&self.plan, &mut checker, shape, cut.workspace_bytes())?;
        if cut.parts().is_empty() || bindings.out.layout.is_empty() {
            return Ok(Dispatch::empty());
        }
        let params = Params::new(&self.plan, shape, bindings, cache, rotary)?;
        let workgroups = |part: &CutPart| caps.fold_groups(part.groups.into());
        let parts = cut.parts().iter().map(|part| Ok(params.part(part, workgroups(part)?[0])));
        let params = UniformArray::new(
            device,
            "attention params",
            caps.uniform_alignment,
            &parts.collect::<Result<Vec<_>>>()?,
        )?;

        let all_keys;
        let lens = match (problem.keys, &bindings.cu_seqlens_k, &bindings.kv_lens) {
            (Keys::Ragged, Some(lens), _) | (_, _, Some(lens)) => lens.clone(),
            _ => {
                let all = vec![shape.seq_k; shape.batch as usize];
                let bytes = bytemuck::cast_slice(&all);
                all_keys = uniform_buffer(device, "attention: all keys", bytes)?;
                all_keys.as_entire_buffer_binding()
            }
        };
        // With no keys, k and v may be empty buffers, which cannot be bound: nothing reads them.
        let keys = &bindings.cache;
        let [k, v] = [&keys.k, &keys.v].map(|side| match keys.k.layout.is_empty() {
            true => self.unused.read(),
            false => side.binding.clone(),
        });
        let mut entries = vec![
            (binding::PARAMS, params.element(0)),
            (binding::PROGRAMS, self.programs.as_entire_buffer_binding()),
            (binding::Q, bindings.q.binding.clone()),
            (binding::K, k),
            (binding::V, v),
            (binding::OUT, bindings.out.binding.clone()),
            (binding::LSE, bindings.lse.clone().unwrap_or_else(|| self.unused.written())),
            (binding::LENS, lens),
        ];
        let optional = [
            (binding::OUT_IM, bindings.out_im.as_ref().map(|tensor| &tensor.binding)),
            (binding::CU_SEQLENS_Q, bindings.cu_seqlens_q.as_ref()),
            (BLOCK_TABLE, keys.block_table.as_ref().map(|table| &table.binding)),
            (binding::BIAS, bindings.bias.as_ref().map(|(_, binding)| binding)),
            (binding::PREFIX_LENS, bindings.prefix_lens.as_ref()),
            (binding::BLOCKS, bindings.block_list.as_ref().map(|list| &list.binding)),
        ];
        for (number, binding) in optional {
            entries.extend(binding.map(|binding| (number, binding.clone())));
        }
        if let Some((table, positions)) = &bindings.rotation {
            let ids = match positions {
                Positions::Ids { binding, .. } => binding.clone(),
                _ => self.unused.read(),
            };
            entries.extend([(COS_SIN, table.binding.clone()), (POSITION_IDS, ids)]);
        }
        if problem.resumable {
            let state = bindings.workspace.clone().unwrap_or_else(|| self.unused.written());
            entries.push((binding::STATE, state));
        }
        let mut dispatches = Vec::new();
        for (n, part) in cut.parts().iter().enumerate() {
            // Parts differ in their parameters alone.
            entries[0].1 = params.element(n);
            let bind = Bind {
                label: "attention",
                pipeline: &self.pipeline,
                entries: &entries,
                workgroups: workgroups(part)?,
            };
            dispatches.push(Dispatch::new(device, &bind).executing(part.flops));
        }
        Ok(Dispatch::sequence(dispatches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::attention::{Alignment, AttentionProblem, Bias, Outputs, Queries};
    use crate::plan::cache::CacheFormat;
    use crate::reflect::wgsl_bindings;
    use crate::{Capabilities, HeadMap};

    fn bindings_of(change: impl Fn(&mut AttentionProblem)) -> Vec<(u32, String)> {
        let mut caps = Capabilities::webgpu_default();
        caps.max_storage_buffers = 16;
        let mut problem = AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64);
        change(&mut problem);
        wgsl_bindings(&problem.plan(&caps).unwrap().shader().source)
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        let base = [
            (binding::PARAMS, "params"),
            (binding::PROGRAMS, "programs"),
            (binding::Q, "q"),
            (binding::K, "k"),
            (binding::V, "v"),
            (binding::OUT, "out"),
            (binding::LSE, "lse"),
            (COS_SIN, "cos_sin"),
            (POSITION_IDS, "position_ids"),
        ];
        let with = |more: &[(u32, &str)]| {
            let mut all: Vec<_> =
                base.iter().chain(more).map(|&(number, name)| (number, name.to_owned())).collect();
            all.sort_unstable();
            all
        };
        let lens = (binding::LENS, "kv_lens");
        assert_eq!(bindings_of(|_| ()), with(&[lens]));
        assert_eq!(bindings_of(|p| p.rotate_q = true), with(&[lens]));
        let split = with(&[lens, (binding::OUT_IM, "out_im")]);
        assert_eq!(bindings_of(|p| p.outputs = Outputs::Split), split);
        let paged = with(&[lens, (BLOCK_TABLE, "block_table")]);
        let cache = CacheFormat { paged: true, ..CacheFormat::new(1, 64) };
        assert_eq!(bindings_of(|p| p.keys = Keys::Cache(cache)), paged);
        let ragged =
            with(&[(binding::LENS, "cu_seqlens_k"), (binding::CU_SEQLENS_Q, "cu_seqlens_q")]);
        let all_ragged = bindings_of(|p| {
            (p.queries, p.keys) = (Queries::Ragged, Keys::Ragged);
            p.alignment = Alignment::LastKey;
        });
        assert_eq!(all_ragged, ragged);
        let biased = bindings_of(|p| p.bias = Some(Bias::Additive));
        assert_eq!(biased, with(&[lens, (binding::BIAS, "bias")]));
        let masked = bindings_of(|p| p.bias = Some(Bias::Mask));
        assert_eq!(masked, with(&[lens, (binding::BIAS, "mask")]));
        let listed = bindings_of(|p| p.block_list = true);
        assert_eq!(listed, with(&[lens, (binding::BLOCKS, "blocks")]));
        let resumed = bindings_of(|p| p.resumable = true);
        assert_eq!(resumed, with(&[lens, (binding::STATE, "state")]));
        let prefixed = bindings_of(|p| p.prefix = true);
        assert_eq!(prefixed, with(&[lens, (binding::PREFIX_LENS, "prefix_lens")]));
    }
}
