//! Calls of the backward pass of attention: tensors in, a recipe out.

mod bindings;
mod params;

use std::sync::Arc;

use crate::Result;
use crate::call::{Binding, Plan, Positions, Recipe, Resource, Step};
use crate::plan::attention::{AttentionShape, Keys};
use crate::plan::attention_backward::{AttentionBackwardPlan, Part, Side, WORKGROUP};
use crate::plan::rules::Bias;
use crate::plan::{Budget, KernelKind, Shader, binding};
pub use bindings::{AttentionBackwardBindings, BackwardRotation};
use params::Params;

impl Plan for AttentionBackwardPlan {
    const KERNEL: KernelKind = KernelKind::AttentionBackward;

    type Shape<'s> = AttentionShape;
    type Bindings<B> = AttentionBackwardBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        self.shaders().iter().collect()
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        let head_rows = self.head_rows.table();
        // Places and rows look nothing up.
        (0..self.shaders().len()).map(|stage| (stage > 1).then(|| head_rows.clone())).collect()
    }

    fn recipe<B: Binding>(
        &self,
        shape: &AttentionShape,
        bindings: &AttentionBackwardBindings<B>,
    ) -> Result<Recipe<B>> {
        self.recipe_within(shape, bindings, Budget::UNLIMITED)
    }
}

impl AttentionBackwardPlan {
    /// [`Plan::recipe`] for a call whose large passes are cut between workgroups into dispatches of
    /// at most `budget` each, at least [`AttentionBackwardPlan::least_budget`]. Every budget gives
    /// the same bits.
    ///
    /// # Errors
    /// As [`Plan::recipe`], and [`Error::Invalid`](crate::Error::Invalid) for a budget that is too
    /// small.
    pub fn recipe_within<B: Binding>(
        &self,
        shape: &AttentionShape,
        bindings: &AttentionBackwardBindings<B>,
        budget: Budget,
    ) -> Result<Recipe<B>> {
        let caps = &self.capabilities;
        let checked = bindings.check(self, shape)?;
        let cuts = [Side::Queries, Side::Keys].map(|side| (side, self.cut(shape, side, budget)));
        let base = Params::new(self, shape, bindings, &checked)?;

        let small = small_groups(self, shape, checked.q_rows);
        let mut steps = Vec::new();
        for (pass, groups) in small.into_iter().enumerate() {
            if groups > 0 {
                let workgroups = caps.fold_groups(groups)?;
                steps.push(Step::new(pass, workgroups).params(&base.folded(workgroups[0])));
            }
        }
        for (n, (side, parts)) in cuts.into_iter().enumerate() {
            let layout =
                if side == Side::Queries { &bindings.dq.layout } else { &bindings.dk.layout };
            // Without channels to write there is nothing to run.
            let parts: Vec<Part> = if layout.is_empty() { Vec::new() } else { parts? };
            for part in &parts {
                let workgroups = caps.fold_groups(part.groups.into())?;
                let params = base.part(self, shape, bindings, (side, part, workgroups[0]));
                let step = Step::new(self.shaders().len() - 2 + n, workgroups).params(&params);
                steps.push(Step { flops: Some(part.flops), ..step });
            }
        }
        let lens = match (&bindings.cu_seqlens_k, &bindings.kv_lens) {
            (Some(lens), _) | (_, Some(lens)) => Resource::Caller(lens.clone()),
            _ => {
                let all = vec![shape.seq_k; (shape.batch as usize).max(1)];
                Resource::Data(Arc::from(bytemuck::cast_slice(&all)))
            }
        };
        let steps = steps.into_iter().map(|step| self.bound(step, bindings, lens.clone()));
        Ok(Recipe { steps: steps.collect() })
    }

    /// What a pass binds beside its parameters.
    fn bound<B: Binding>(
        &self,
        step: Step<B>,
        bindings: &AttentionBackwardBindings<B>,
        lens: Resource<B>,
    ) -> Step<B> {
        let pass = step.stage;
        let call = step.bind(binding::WORKSPACE, &bindings.workspace);
        let problem = self.problem();
        let dq = self.shaders().len() - 2;
        match pass {
            0 => {
                fn ids<B>(positions: &Positions<B>) -> Option<&B> {
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
                call.entry(lens_at, lens)
                    .declared(binding::POSITION_IDS, rotation.and_then(|r| ids(&r.q_positions)))
                    .declared(binding::KEY_POSITION_IDS, rotation.and_then(|r| ids(&r.k_positions)))
                    .optional(binding::CU_SEQLENS_Q, bindings.cu_seqlens_q.as_ref())
                    .optional(binding::PREFIX_LENS, bindings.prefix_lens.as_ref())
            }
            1 => call
                .tensor(binding::OUT, &bindings.out)
                .tensor(binding::D_OUT, &bindings.d_out)
                .bind(binding::LSE, &bindings.lse)
                .declared(binding::D_LSE, bindings.d_lse.as_ref()),
            _ if pass < dq => {
                call.table(binding::HEAD_ROWS).optional(binding::D_SINKS, bindings.d_sinks.as_ref())
            }
            _ => self.large(call, pass > dq, bindings),
        }
    }

    /// What a large pass binds: dQ, or dK and dV.
    fn large<B: Binding>(
        &self,
        call: Step<B>,
        keys: bool,
        bindings: &AttentionBackwardBindings<B>,
    ) -> Step<B> {
        let problem = self.problem();
        let bias_at = match problem.attention.bias {
            Some(Bias::Mask) => binding::MASK,
            _ => binding::BIAS,
        };
        let table = bindings.rotation.as_ref().map(|rotation| &rotation.table.binding);
        let mut call = call
            .table(binding::HEAD_ROWS)
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
            call =
                call.declared(number, Some(&tensor.binding).filter(|_| !tensor.layout.is_empty()));
        }
        match keys {
            true => call.tensor(binding::GRAD, &bindings.dk).tensor(binding::DV, &bindings.dv),
            false => call
                .tensor(binding::GRAD, &bindings.dq)
                .optional(binding::D_BIAS, bindings.d_bias.as_ref()),
        }
    }
}

/// Workgroups of the small passes: places, rows, and the sinks where they have a gradient.
fn small_groups(
    plan: &AttentionBackwardPlan,
    shape: &AttentionShape,
    [batches, rows]: [u32; 2],
) -> Vec<u64> {
    let n = u64::from;
    let p = &plan.problem().attention;
    let heads_out = p.heads.heads().len() as u64;
    let groups = |entries: u64| entries.div_ceil(n(WORKGROUP));
    let longest = match plan.problem().turns() {
        true => n(shape.seq_q.max(shape.seq_k)) * n(plan.problem().position_streams),
        false => 1,
    };
    let mut all =
        vec![groups(n(shape.batch) * longest.max(1)), groups(n(batches) * heads_out * n(rows))];
    if plan.problem().d_sinks {
        all.push(heads_out);
    }
    all
}
