//! Calls of a merge of attention over parts of the keys: tensors in, a recipe out.

use crate::call::{Access, Binding, Checker, Plan, Recipe, Step, Strides, Tensor};
use crate::plan::merge::{MergePlan, MergeShape};
use crate::plan::{KernelKind, Shader, binding};
use crate::uniform::uniform;
use crate::{Error, Result};

/// The tensors of one merge.
#[derive(Debug, Clone)]
pub struct MergeBindings<B> {
    /// The parts' outputs, `[P, B · H, S, D_v]`, heads counted on over the batches; read. Strides
    /// and offset are multiples of 4 elements, here and below.
    pub parts: Tensor<B>,
    /// The parts' natural log-sum-exps, f32 `[P, B, H, S]` without gaps, read.
    pub lse_parts: B,
    /// `[B, H, S, D_v]`, written.
    pub out: Tensor<B>,
    /// Natural log-sum-exp of the whole, f32 `[B, H, S]` without gaps; written. −∞ in rows that see
    /// no key in any part.
    pub lse: Option<B>,
}

impl<B> MergeBindings<B> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(parts: Tensor<B>, lse_parts: B, out: Tensor<B>) -> Self {
        Self { parts, lse_parts, out, lse: None }
    }
}

uniform! {
    /// `Params` of `shaders/merge.wgsl`.
    struct Params {
        parts: u32,
        batch: u32,
        heads: u32,
        seq: u32,
        groups_x: u32,
        store_lse: u32,
        minus_infinity: f32,
        pad: u32,
        part: Strides,
        out: Strides,
    }
}

impl Plan for MergePlan {
    const KERNEL: KernelKind = KernelKind::Merge;

    type Shape<'s> = MergeShape;
    type Bindings<B> = MergeBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        vec![self.shader()]
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        vec![Some(bytemuck::cast_slice(&self.sinks()).to_vec())]
    }

    fn recipe<B: Binding>(
        &self,
        shape: &MergeShape,
        bindings: &MergeBindings<B>,
    ) -> Result<Recipe<B>> {
        let groups = self.groups(shape)?;
        check(self, shape, bindings)?;
        if groups == 0 {
            return Ok(Recipe::empty());
        }
        let workgroups = self.capabilities.fold_groups(groups)?;
        let params = Params {
            parts: shape.parts,
            batch: shape.batch,
            heads: shape.heads,
            seq: shape.seq,
            groups_x: workgroups[0],
            store_lse: self.problem().lse.into(),
            minus_infinity: f32::NEG_INFINITY,
            pad: 0,
            part: Strides::new(&bindings.parts.layout, 4),
            out: Strides::new(&bindings.out.layout, 4),
        };
        // Without parts there is nothing to read, and perhaps nothing that could be bound.
        let [parts, lse_parts] = [&bindings.parts.binding, &bindings.lse_parts]
            .map(|part| Some(part).filter(|_| shape.parts > 0));
        let step = Step::new(0, workgroups)
            .params(&params)
            .table(binding::SINKS)
            .declared(binding::PARTS, parts)
            .declared(binding::LSE_PARTS, lse_parts)
            .tensor(binding::OUT, &bindings.out)
            .declared(binding::LSE, bindings.lse.as_ref());
        Ok(step.into())
    }
}

fn check<B: Binding>(
    plan: &MergePlan,
    shape: &MergeShape,
    bindings: &MergeBindings<B>,
) -> Result<()> {
    let p = plan.problem();
    let MergeShape { parts, batch, heads, seq } = *shape;
    if !p.sinks.is_empty() && p.sinks.len() != heads as usize {
        return Err(Error::Invalid {
            what: "sinks",
            needed: "one a head, or none",
            got: format!("{} for {heads} heads", p.sinks.len()),
        });
    }
    let mut checker = Checker::new(&plan.capabilities);
    let all_heads = batch.saturating_mul(heads);
    let parts_shape = [parts, all_heads, seq, p.value_dim];
    checker.tensor("parts", &bindings.parts, Access::Read, p.part_dtype, parts_shape, 4)?;
    let rows = u64::from(all_heads) * u64::from(seq);
    let reach = plan.state_bytes() * rows * u64::from(parts);
    checker.binding("lse_parts", &bindings.lse_parts, Access::Read, reach)?;
    let out_shape = [batch, heads, seq, p.value_dim];
    checker.tensor("out", &bindings.out, Access::Write, p.out_dtype, out_shape, 4)?;
    checker.optional("lse", p.lse, bindings.lse.as_ref(), Access::Write, 4 * rows)
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::merge::MergeProblem;
    use crate::reflect::assert_uniform;

    #[test]
    fn params_are_the_shaders() {
        let plan = MergeProblem::new(64).plan(&Capabilities::webgpu_default()).unwrap();
        assert_uniform::<Params>(&plan.shader().source, "Params");
    }
}
