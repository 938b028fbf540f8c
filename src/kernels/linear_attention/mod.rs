//! Linear attention on the device: compiles a [`LinearAttentionPlan`], binds tensors to it.

mod bindings;
mod call;
mod params;

#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::gpu::{Bind, Compiler, Dispatch, Pipeline, Unused, uniform_buffer};
use crate::plan::linear_attention::{LinearAttentionPlan, LinearAttentionShape};
pub use bindings::{LinearAttentionBindings, RandomFeatureBindings, Rotation, State};
use call::Call;
use params::Head;

/// A compiled linear attention. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct LinearAttention {
    plan: LinearAttentionPlan,
    /// In the order of the plan's shaders.
    pipelines: Vec<Pipeline>,
    heads: wgpu::Buffer,
    unused: Unused,
}

/// Binding numbers, by the names of `shaders/linear_attention` and `shaders/io`.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const HEADS: u32 = 1;
    pub(super) const Q: u32 = 2;
    pub(super) const K: u32 = 3;
    pub(super) const V: u32 = 4;
    pub(super) const OUT: u32 = 5;
    pub(super) const WORKSPACE: u32 = 6;
    pub(super) const FEATURES: u32 = 6;
    pub(super) const STATE_S: u32 = 7;
    pub(super) const STATE_Z: u32 = 10;
    pub(super) const PROJECTION: u32 = 11;
}

impl LinearAttention {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &LinearAttentionPlan) -> Result<Self> {
        let compiler = compiler.into();
        let device = compiler.device();
        let plan = plan.problem().plan(&crate::Capabilities::of(device))?;
        let mut heads = vec![Head::default(); plan.head_slots()];
        for (slot, head) in heads.iter_mut().zip(plan.problem().heads.heads()) {
            let (cos, sin) = (head.phase.cos() as f32, head.phase.sin() as f32);
            *slot = Head { source: head.source, cos, sin, pad: 0 };
        }
        let heads = uniform_buffer(device, "linear attention heads", bytemuck::cast_slice(&heads))?;
        Ok(Self {
            pipelines: plan
                .shaders()
                .iter()
                .map(|s| Pipeline::new(compiler, s))
                .collect::<Result<_>>()?,
            heads,
            unused: Unused::new(device)?,
            plan,
        })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &LinearAttentionPlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, dtypes and
    /// limits; [`Error::Binding`] for a binding that the problem needs and the call lacks, or the
    /// other way round; [`Error::TableTooShort`] where a token has a position past the table. The
    /// buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &LinearAttentionShape,
        bindings: &LinearAttentionBindings<'_>,
    ) -> Result<Dispatch> {
        let call = Call::check(&self.plan, shape, bindings)?;
        let groups = self.plan.groups(shape);
        let mut passes = Vec::new();
        let mut all = self.pipelines.iter().zip(groups);
        let favor = self.plan.problem().is_favor();
        let favor_passes = if favor { [Some(true), Some(false)] } else { [None; 2] };
        let own = favor_passes.into_iter().flatten().map(Pass::Favor);
        let kinds = own.chain([Pass::Sums, Pass::Scan, Pass::Outputs]);
        for (kind, (pipeline, groups)) in kinds.zip(&mut all) {
            if groups > 0 {
                let workgroups = self.plan.capabilities.fold_groups(groups)?;
                passes.push(self.pass(device, &call, kind, pipeline, workgroups)?);
            }
        }
        Ok(Dispatch::sequence(passes))
    }

    fn pass(
        &self,
        device: &wgpu::Device,
        call: &Call<'_>,
        kind: Pass,
        pipeline: &Pipeline,
        workgroups: [u32; 2],
    ) -> Result<Dispatch> {
        let bytes = match kind {
            Pass::Favor(query) => {
                bytemuck::bytes_of(&call.favor_params(query, workgroups[0])).to_vec()
            }
            Pass::Outputs => {
                bytemuck::bytes_of(&call.params(call.q_rotary, workgroups[0])).to_vec()
            }
            _ => bytemuck::bytes_of(&call.params(call.k_rotary, workgroups[0])).to_vec(),
        };
        let params = uniform_buffer(device, "linear attention params", &bytes)?;
        let mut entries = vec![(binding::PARAMS, params.as_entire_buffer_binding())];
        call.entries(kind, &self.heads, &self.unused, &mut entries);
        Ok(Dispatch::new(
            device,
            &Bind { label: "linear attention", pipeline, entries: &entries, workgroups },
        ))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pass {
    /// Of the queries, or of the keys.
    Favor(bool),
    Sums,
    Scan,
    Outputs,
}

#[cfg(test)]
mod tests {
    use super::params::{FavorParams, Params, Quads};
    use super::*;
    use crate::gpu::{COS_SIN, POSITION_IDS};
    use crate::plan::linear_attention::{FeatureMap, LinearAttentionProblem};
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};
    use crate::{Capabilities, HeadMap};

    host_struct!(Quads { offset, batch, head, row });
    host_struct!(Head { source, cos, sin, pad });
    host_struct!(Params {
        batch,
        seq_q,
        seq_k,
        kv_heads,
        group,
        groups_x,
        chunks,
        tiles,
        heads_out,
        resume,
        plane_q,
        plane_k,
        q,
        k,
        v,
        out,
        rotary,
    });
    host_struct!(FavorParams {
        batch,
        heads,
        seq,
        groups_x,
        tiles,
        is_query,
        key_offset,
        scale,
        x,
    });

    fn plan() -> LinearAttentionPlan {
        let problem = LinearAttentionProblem {
            feature_map: FeatureMap::Favor { features: 32, key_offset: 0.0 },
            rotary_dim: 32,
            state: true,
            ..LinearAttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64)
        };
        problem.plan(&Capabilities::webgpu_default()).unwrap()
    }

    #[test]
    fn host_structs_are_the_shaders() {
        let plan = plan();
        let [favor_q, favor_k, passes @ ..] = plan.shaders() else { panic!("five passes") };
        for shader in [favor_q, favor_k] {
            assert_eq!(host_layout::<FavorParams>(), wgsl_layout(&shader.source, "Params"));
        }
        for shader in passes {
            assert_eq!(host_layout::<Params>(), wgsl_layout(&shader.source, "Params"));
        }
        assert_eq!(host_layout::<Head>(), wgsl_layout(&passes[2].source, "Head"));
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        let params = (binding::PARAMS, "params");
        let workspace = (binding::WORKSPACE, "workspace");
        let table = [(COS_SIN, "cos_sin"), (POSITION_IDS, "position_ids")];
        let (k, v) = ((binding::K, "k"), (binding::V, "v"));
        let features = (binding::FEATURES, "features");
        let favor = vec![params, (binding::Q, "q"), features, (binding::PROJECTION, "projection")];
        let state = [(binding::STATE_S, "state_s"), (binding::STATE_Z, "state_z")];
        let wanted = [
            favor.clone(),
            favor,
            [vec![params, k, v, workspace], table.to_vec()].concat(),
            [vec![params, workspace, state[0]], table.to_vec(), vec![state[1]]].concat(),
            [
                vec![params, (binding::HEADS, "heads"), (binding::Q, "q"), k, v],
                vec![(binding::OUT, "out"), workspace],
                table.to_vec(),
            ]
            .concat(),
        ];
        for (shader, wanted) in plan().shaders().iter().zip(wanted) {
            let wanted: Vec<_> = wanted.into_iter().map(|(n, name)| (n, name.to_owned())).collect();
            assert_eq!(wgsl_bindings(&shader.source), wanted, "{}", shader.label);
        }
    }
}
