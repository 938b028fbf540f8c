//! Linear attention on the device: compiles a [`LinearAttentionPlan`], binds tensors to it.

mod bindings;
mod call;
mod params;

#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::gpu::{Compiler, Dispatch, Pipeline, params_buffer, uniform_buffer};
use crate::plan::binding;
use crate::plan::linear_attention::{LinearAttentionPlan, LinearAttentionShape};
pub use bindings::{LinearAttentionBindings, RandomFeatureBindings, State};
use call::Call;
use params::Head;

/// A compiled linear attention. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct LinearAttention {
    plan: LinearAttentionPlan,
    /// In the order of the plan's shaders.
    pipelines: Vec<Pipeline>,
    heads: wgpu::Buffer,
}

impl LinearAttention {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &LinearAttentionPlan) -> Result<Self> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        let mut heads = vec![Head::default(); plan.head_slots()];
        for (slot, head) in heads.iter_mut().zip(plan.problem().heads.heads()) {
            let (cos, sin) = (head.phase.cos() as f32, head.phase.sin() as f32);
            *slot = Head { source: head.source, cos, sin, pad: 0 };
        }
        let heads = bytemuck::cast_slice(&heads);
        let pipeline = |shader| Pipeline::new(compiler, shader);
        Ok(Self {
            pipelines: plan.shaders().iter().map(pipeline).collect::<Result<_>>()?,
            heads: uniform_buffer(compiler.device(), "linear attention heads", heads)?,
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
        let favor = [Pass::Favor { query: true }, Pass::Favor { query: false }];
        let favor = favor.into_iter().filter(|_| self.plan.problem().is_favor());
        let all = favor.chain([Pass::Sums, Pass::Scan, Pass::Outputs]);
        let groups = self.plan.groups(shape);
        let mut passes = Vec::new();
        for (pass, (pipeline, groups)) in all.zip(self.pipelines.iter().zip(groups)) {
            if groups > 0 {
                let workgroups = self.plan.capabilities.fold_groups(groups)?;
                let params = self.params(device, &call, pass, workgroups[0])?;
                let bound =
                    pipeline.call().bind(binding::PARAMS, params.as_entire_buffer_binding());
                let bound = call.bind(pass, &self.heads, bound);
                passes.push(bound.dispatch(device, workgroups));
            }
        }
        Ok(Dispatch::sequence(passes))
    }

    fn params(
        &self,
        device: &wgpu::Device,
        call: &Call<'_>,
        pass: Pass,
        groups_x: u32,
    ) -> Result<wgpu::Buffer> {
        let label = "linear attention params";
        match pass {
            Pass::Favor { query } => {
                params_buffer(device, label, &call.favor_params(query, groups_x))
            }
            Pass::Sums | Pass::Scan => {
                params_buffer(device, label, &call.params(call.k_rotary, groups_x))
            }
            Pass::Outputs => params_buffer(device, label, &call.params(call.q_rotary, groups_x)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pass {
    /// Random features of the queries, or of the keys.
    Favor {
        query: bool,
    },
    Sums,
    Scan,
    Outputs,
}

#[cfg(test)]
mod tests {
    use super::params::{FavorParams, Params};
    use super::*;
    use crate::plan::linear_attention::{FeatureMap, LinearAttentionProblem};
    use crate::reflect::assert_uniform;
    use crate::{Capabilities, HeadMap};

    #[test]
    fn params_and_heads_are_the_shaders() {
        let problem = LinearAttentionProblem {
            feature_map: FeatureMap::Favor { features: 32, key_offset: 0.0 },
            rotary_dim: 32,
            state: true,
            ..LinearAttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64)
        };
        let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
        let [favor_q, favor_k, passes @ ..] = plan.shaders() else { panic!("five passes") };
        for shader in [favor_q, favor_k] {
            assert_uniform::<FavorParams>(&shader.source, "Params");
        }
        for shader in passes {
            assert_uniform::<Params>(&shader.source, "Params");
        }
        assert_uniform::<Head>(&passes[2].source, "Head");
    }
}
