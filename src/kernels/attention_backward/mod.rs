//! The backward pass of attention on the device: compiles an [`AttentionBackwardPlan`], binds tensors
//! to it.

mod bindings;
mod params;

#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::gpu::{Call, Compiler, Dispatch, Pipeline, Positions, UniformArray, uniform_buffer};
use crate::plan::attention::{AttentionShape, Bias, Keys};
use crate::plan::attention_backward::{AttentionBackwardPlan, Part, Side, WORKGROUP};
use crate::plan::{Budget, binding};
pub use bindings::{AttentionBackwardBindings, BackwardRotation};
use params::Params;

/// The compiled kernels of a backward pass. They belong to the device they were made on and are cheap
/// to clone.
#[derive(Debug, Clone)]
pub struct AttentionBackward {
    plan: AttentionBackwardPlan,
    /// In the order of the plan's shaders.
    pipelines: Vec<Pipeline>,
    programs: wgpu::Buffer,
}

impl AttentionBackward {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(
        compiler: impl Into<Compiler<'a>>,
        plan: &AttentionBackwardPlan,
    ) -> Result<Self> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        let compile = |shader| Pipeline::new(compiler, shader);
        Ok(Self {
            pipelines: plan.shaders().iter().map(compile).collect::<Result<_>>()?,
            programs: Self::programs(compiler.device(), &plan)?,
            plan,
        })
    }

    fn programs(device: &wgpu::Device, plan: &AttentionBackwardPlan) -> Result<wgpu::Buffer> {
        let table = plan.programs.table();
        uniform_buffer(device, "attention programs", bytemuck::cast_slice(&table))
    }

    /// Kernels for another plan with the very same shaders, without compiling again. `None` where the
    /// shaders differ.
    ///
    /// # Errors
    /// As [`AttentionBackward::new`].
    pub fn reuse<'a>(
        &self,
        compiler: impl Into<Compiler<'a>>,
        plan: &AttentionBackwardPlan,
    ) -> Result<Option<Self>> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        if plan.shaders() != self.plan.shaders() {
            return Ok(None);
        }
        let programs = Self::programs(compiler.device(), &plan)?;
        Ok(Some(Self { programs, plan, ..self.clone() }))
    }

    /// The plan that runs.
    pub fn plan(&self) -> &AttentionBackwardPlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, dtypes and
    /// limits; [`Error::Binding`] for a tensor that the problem needs and the call lacks, or the other
    /// way round; [`Error::TableTooShort`] where a row has a position past the table. The buffers stay
    /// as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &AttentionShape,
        bindings: &AttentionBackwardBindings<'_>,
    ) -> Result<Dispatch> {
        self.bind_within(device, shape, bindings, Budget::UNLIMITED)
    }

    /// [`AttentionBackward::bind`] for a call whose large passes are cut between workgroups into
    /// dispatches of at most `budget` each, at least [`AttentionBackwardPlan::least_budget`]. Every
    /// budget gives the same bits.
    ///
    /// # Errors
    /// As [`AttentionBackward::bind`], and [`Error::Invalid`] for a budget that is too small.
    pub fn bind_within(
        &self,
        device: &wgpu::Device,
        shape: &AttentionShape,
        bindings: &AttentionBackwardBindings<'_>,
        budget: Budget,
    ) -> Result<Dispatch> {
        let plan = &self.plan;
        let caps = &plan.capabilities;
        let checked = bindings.check(plan, shape)?;
        let cuts = [Side::Queries, Side::Keys].map(|side| (side, plan.cut(shape, side, budget)));
        let base = Params::new(plan, shape, bindings, &checked)?;

        let small = self.small_groups(shape, checked.q_rows);
        let mut params = Vec::new();
        let mut steps: Vec<(usize, [u32; 2], Option<u64>)> = Vec::new();
        for (pass, groups) in small.into_iter().enumerate() {
            if groups > 0 {
                let workgroups = caps.fold_groups(groups)?;
                params.push(base.folded(workgroups[0]));
                steps.push((pass, workgroups, None));
            }
        }
        for (n, (side, parts)) in cuts.into_iter().enumerate() {
            let layout =
                if side == Side::Queries { &bindings.dq.layout } else { &bindings.dk.layout };
            // Without channels to write there is nothing to run.
            let parts: Vec<Part> = if layout.is_empty() { Vec::new() } else { parts? };
            for part in &parts {
                let workgroups = caps.fold_groups(part.groups.into())?;
                params.push(base.part(plan, shape, bindings, (side, part, workgroups[0])));
                steps.push((self.pipelines.len() - 2 + n, workgroups, Some(part.flops)));
            }
        }
        if steps.is_empty() {
            return Ok(Dispatch::empty());
        }
        let params = UniformArray::new(
            device,
            "attention backward params",
            caps.uniform_alignment,
            &params,
        )?;
        let all_keys;
        let lens = match (&bindings.cu_seqlens_k, &bindings.kv_lens) {
            (Some(lens), _) | (_, Some(lens)) => lens.clone(),
            _ => {
                let all = vec![shape.seq_k; (shape.batch as usize).max(1)];
                let bytes = bytemuck::cast_slice(&all);
                all_keys = uniform_buffer(device, "attention backward: all keys", bytes)?;
                all_keys.as_entire_buffer_binding()
            }
        };
        let mut dispatches = Vec::new();
        for (n, (pass, workgroups, flops)) in steps.into_iter().enumerate() {
            let call = self.call(pass, bindings, &lens).bind(binding::PARAMS, params.element(n));
            let dispatch = call.dispatch(device, workgroups);
            dispatches.push(match flops {
                Some(flops) => dispatch.executing(flops),
                None => dispatch,
            });
        }
        Ok(Dispatch::sequence(dispatches))
    }

    /// Workgroups of the small passes: places, rows, and the sinks where they have a gradient.
    fn small_groups(&self, shape: &AttentionShape, [batches, rows]: [u32; 2]) -> Vec<u64> {
        let n = u64::from;
        let p = &self.plan.problem().attention;
        let heads_out = p.heads.heads().len() as u64;
        let groups = |entries: u64| entries.div_ceil(n(WORKGROUP));
        let longest = match self.plan.problem().turns() {
            true => n(shape.seq_q.max(shape.seq_k)) * n(self.plan.problem().position_streams),
            false => 1,
        };
        let mut all =
            vec![groups(n(shape.batch) * longest.max(1)), groups(n(batches) * heads_out * n(rows))];
        if self.plan.problem().d_sinks {
            all.push(heads_out);
        }
        all
    }

    /// What a pass binds beside its parameters.
    fn call<'a>(
        &'a self,
        pass: usize,
        bindings: &AttentionBackwardBindings<'a>,
        lens: &wgpu::BufferBinding<'a>,
    ) -> Call<'a> {
        let call = self.pipelines[pass].call().bind(binding::WORKSPACE, bindings.workspace.clone());
        let problem = self.plan.problem();
        let dq = self.pipelines.len() - 2;
        match pass {
            0 => {
                fn ids<'b, 'a>(
                    positions: &'b Positions<'a>,
                ) -> Option<&'b wgpu::BufferBinding<'a>> {
                    match positions {
                        Positions::Ids { binding, .. } => Some(binding),
                        Positions::From(_) | Positions::AmongKeys => None,
                    }
                }
                let rotation = bindings.rotation.as_ref();
                let lens_at = match problem.attention.keys {
                    Keys::Ragged => binding::CU_SEQLENS_K,
                    Keys::Batched | Keys::Cache(_) => binding::KV_LENS,
                };
                call.bind(lens_at, lens.clone())
                    .read(binding::POSITION_IDS, rotation.and_then(|r| ids(&r.q_positions)))
                    .read(binding::KEY_POSITION_IDS, rotation.and_then(|r| ids(&r.k_positions)))
                    .optional(binding::CU_SEQLENS_Q, bindings.cu_seqlens_q.as_ref())
                    .optional(binding::PREFIX_LENS, bindings.prefix_lens.as_ref())
            }
            1 => call
                .tensor(binding::OUT, &bindings.out)
                .tensor(binding::D_OUT, &bindings.d_out)
                .bind(binding::LSE, bindings.lse.clone())
                .read(binding::D_LSE, bindings.d_lse.as_ref()),
            _ if pass < dq => call
                .bind(binding::PROGRAMS, self.programs.as_entire_buffer_binding())
                .optional(binding::D_SINKS, bindings.d_sinks.as_ref()),
            _ => self.large(call, pass > dq, bindings),
        }
    }

    /// What a large pass binds: dQ, or dK and dV.
    fn large<'a>(
        &'a self,
        call: Call<'a>,
        keys: bool,
        bindings: &AttentionBackwardBindings<'a>,
    ) -> Call<'a> {
        let problem = self.plan.problem();
        let bias_at = match problem.attention.bias {
            Some(Bias::Mask) => binding::MASK,
            _ => binding::BIAS,
        };
        let table = bindings.rotation.as_ref().map(|rotation| &rotation.table.binding);
        let mut call = call
            .bind(binding::PROGRAMS, self.programs.as_entire_buffer_binding())
            .optional(bias_at, bindings.bias.as_ref().map(|(_, binding)| binding))
            .optional(binding::COS_SIN, table);
        // With rows of one side alone, tensors of the other may be empty buffers, which cannot be
        // bound: nothing reads them.
        for (number, tensor) in [
            (binding::Q, &bindings.q),
            (binding::K, &bindings.k),
            (binding::V, &bindings.v),
            (binding::D_OUT, &bindings.d_out),
        ] {
            call = call.read(number, Some(&tensor.binding).filter(|_| !tensor.layout.is_empty()));
        }
        match keys {
            true => call.tensor(binding::GRAD, &bindings.dk).tensor(binding::DV, &bindings.dv),
            false => call
                .tensor(binding::GRAD, &bindings.dq)
                .optional(binding::D_BIAS, bindings.d_bias.as_ref()),
        }
    }
}
