//! Calls of fused attention: tensors in, a recipe out.

mod bindings;
mod params;

use std::sync::Arc;

use crate::Result;
use crate::call::{Binding, Checker, Plan, Recipe, Resource, Step, pack};
use crate::plan::attention::{AttentionPlan, AttentionShape, Bound, Keys};
use crate::plan::rules::Bias;
use crate::plan::{Budget, KernelKind, Shader, binding};
pub use bindings::{AttentionBindings, BlockList};
use params::{Lists, Params};

impl Plan for AttentionPlan {
    const KERNEL: KernelKind = KernelKind::Attention;

    type Shape<'s> = AttentionShape;
    type Bindings<B> = AttentionBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        vec![self.shader()]
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        vec![Some(self.head_rows.table())]
    }

    fn recipe<B: Binding>(
        &self,
        shape: &AttentionShape,
        bindings: &AttentionBindings<B>,
    ) -> Result<Recipe<B>> {
        self.recipe_within(shape, bindings, Budget::UNLIMITED)
    }
}

impl AttentionPlan {
    /// [`Plan::recipe`] for a call in dispatches of at most `budget` each, as
    /// [`AttentionPlan::cut`] says. Every budget gives the same bits.
    ///
    /// # Errors
    /// As [`Plan::recipe`] and [`AttentionPlan::cut`].
    pub fn recipe_within<B: Binding>(
        &self,
        shape: &AttentionShape,
        bindings: &AttentionBindings<B>,
        budget: Budget,
    ) -> Result<Recipe<B>> {
        let caps = &self.capabilities;
        let cut = self.cut(shape, budget)?;
        let mut checker = Checker::new(caps);
        let checked = bindings.check(self, &mut checker, shape, cut.workspace_bytes())?;
        if cut.parts().is_empty() || bindings.out.layout.is_empty() {
            return Ok(Recipe::empty());
        }
        let mut params = Params::new(self, shape, bindings, checked)?;
        let packed = match self.bound.lists {
            true => pack(bindings.lists(), caps)?,
            false => None,
        };
        if self.bound.lists {
            params.lists = Lists::new(packed.as_ref().map(|(_, places)| *places));
        }
        let lens = match (&bindings.cu_seqlens_k, &bindings.kv_lens) {
            _ if self.bound.lists => {
                packed.map_or(Resource::Unused, |(range, _)| Resource::Caller(range))
            }
            (Some(lens), _) | (None, Some(lens)) => Resource::Caller(lens.clone()),
            (None, None) => {
                let all = vec![shape.seq_k; shape.batch as usize];
                Resource::Data(Arc::from(bytemuck::cast_slice(&all)))
            }
        };
        let mut steps = Vec::with_capacity(cut.parts().len());
        for part in cut.parts() {
            // Parts differ in their parameters alone.
            let workgroups = caps.fold_groups(part.groups.into())?;
            let step = Step::new(0, workgroups).params(&params.part(part, workgroups[0]));
            let step = self.bound(step, bindings, lens.clone());
            steps.push(Step { flops: Some(part.flops), ..step });
        }
        Ok(Recipe { steps })
    }

    /// What the parts of a call have in common.
    fn bound<B: Binding>(
        &self,
        step: Step<B>,
        bindings: &AttentionBindings<B>,
        lens: Resource<B>,
    ) -> Step<B> {
        let problem = self.problem();
        let Bound { lse, lists } = self.bound;
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
        let step = step
            .table(binding::HEAD_ROWS)
            .tensor(binding::Q, &bindings.q)
            .read_cache(&cache, cache.k.layout.is_empty())
            .tensor(binding::OUT, &bindings.out)
            .optional(binding::OUT_IM, bindings.out_im.as_ref().map(|tensor| &tensor.binding))
            .rotation(bindings.rotation.as_ref())
            .entry(lens_at, lens)
            .optional(binding::CU_SEQLENS_Q, apart(bindings.cu_seqlens_q.as_ref()))
            .optional(bias_at, bindings.bias.as_ref().map(|(_, binding)| binding))
            .optional(binding::PREFIX_LENS, apart(bindings.prefix_lens.as_ref()))
            .optional(binding::BLOCKS, apart(blocks));
        let step = match lse {
            true => step.declared(binding::LSE, bindings.lse.as_ref()),
            false => step,
        };
        match problem.resumable {
            true => step.declared(binding::STATE, bindings.workspace.as_ref()),
            false => step,
        }
    }
}
