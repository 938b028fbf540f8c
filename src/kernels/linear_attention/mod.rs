//! Calls of linear attention: tensors in, a recipe out.

mod bindings;
mod call;
mod params;

use crate::call::{Binding, Plan, Recipe, Step};
use crate::plan::linear_attention::{LinearAttentionPlan, LinearAttentionShape};
use crate::plan::{KernelKind, Shader};
use crate::{HeadMap, Result};
pub use bindings::{LinearAttentionBindings, RandomFeatureBindings, State};
use call::Call;
pub(crate) use call::rotaries;
use params::Head;

impl Plan for LinearAttentionPlan {
    const KERNEL: KernelKind = KernelKind::LinearAttention;

    type Shape<'s> = LinearAttentionShape;
    type Bindings<B> = LinearAttentionBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        self.shaders().iter().collect()
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        let outputs = Some(head_table(&self.problem().heads, self.head_slots()));
        let others = self.shaders().len().saturating_sub(1);
        core::iter::repeat_n(None, others).chain([outputs]).collect()
    }

    fn recipe<B: Binding>(
        &self,
        shape: &LinearAttentionShape,
        bindings: &LinearAttentionBindings<B>,
    ) -> Result<Recipe<B>> {
        let call = Call::check(self, shape, bindings)?;
        let favor = [Pass::Favor { query: true }, Pass::Favor { query: false }];
        let favor = favor.into_iter().filter(|_| self.problem().is_favor());
        let all = favor.chain([Pass::Sums, Pass::Scan, Pass::Outputs]);
        let mut steps = Vec::new();
        for (stage, (pass, groups)) in all.zip(self.groups(shape)).enumerate() {
            if groups > 0 {
                let step = Step::new(stage, self.capabilities.fold_groups(groups)?);
                steps.push(call.bind(pass, step));
            }
        }
        Ok(Recipe { steps })
    }
}

/// The table of output heads, in so many slots.
pub(crate) fn head_table(map: &HeadMap, slots: usize) -> Vec<u8> {
    let mut heads = vec![Head::default(); slots];
    for (slot, head) in heads.iter_mut().zip(map.heads()) {
        let (cos, sin) = (head.phase.cos() as f32, head.phase.sin() as f32);
        *slot = Head { source: head.source, cos, sin, pad: 0 };
    }
    bytemuck::cast_slice(&heads).to_vec()
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
    use crate::Capabilities;
    use crate::plan::linear_attention::{FeatureMap, LinearAttentionProblem};
    use crate::reflect::assert_uniform;

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
