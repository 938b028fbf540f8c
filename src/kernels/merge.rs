//! Merges attention over parts of the keys on the device: compiles a [`MergePlan`], binds tensors.

use crate::gpu::{
    Access, Checker, Compiler, Dispatch, Pipeline, Strides, Tensor, params_buffer, uniform_buffer,
};
use crate::plan::binding;
use crate::plan::merge::{MergePlan, MergeShape};
use crate::uniform::uniform;
use crate::{Error, Result};

/// A compiled merge. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct Merge {
    plan: MergePlan,
    pipeline: Pipeline,
    sinks: wgpu::Buffer,
}

/// The tensors of one merge.
#[derive(Debug, Clone)]
pub struct MergeBindings<'a> {
    /// The parts' outputs, `[P, B · H, S, D_v]`, heads counted on over the batches; read. Strides
    /// and offset are multiples of 4 elements, here and below.
    pub parts: Tensor<'a>,
    /// The parts' natural log-sum-exps, f32 `[P, B, H, S]` without gaps, read.
    pub lse_parts: wgpu::BufferBinding<'a>,
    /// `[B, H, S, D_v]`, written.
    pub out: Tensor<'a>,
    /// Natural log-sum-exp of the whole, f32 `[B, H, S]` without gaps; written. −∞ in rows that see
    /// no key in any part.
    pub lse: Option<wgpu::BufferBinding<'a>>,
}

impl<'a> MergeBindings<'a> {
    /// The tensors that every call has, without the optional ones.
    pub fn new(parts: Tensor<'a>, lse_parts: wgpu::BufferBinding<'a>, out: Tensor<'a>) -> Self {
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

impl Merge {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &MergePlan) -> Result<Self> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        let sinks = plan.sinks();
        Ok(Self {
            pipeline: Pipeline::new(compiler, plan.shader())?,
            sinks: uniform_buffer(compiler.device(), "sinks", bytemuck::cast_slice(&sinks))?,
            plan,
        })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &MergePlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, dtypes and
    /// limits; [`Error::Binding`] for a log-sum-exp too many or too few; [`Error::Invalid`] for
    /// another number of heads than there are sinks. The buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &MergeShape,
        bindings: &MergeBindings<'_>,
    ) -> Result<Dispatch> {
        let groups = self.plan.groups(shape)?;
        self.check(shape, bindings)?;
        if groups == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = self.plan.capabilities.fold_groups(groups)?;
        let params = Params {
            parts: shape.parts,
            batch: shape.batch,
            heads: shape.heads,
            seq: shape.seq,
            groups_x: workgroups[0],
            store_lse: self.plan.problem().lse.into(),
            minus_infinity: f32::NEG_INFINITY,
            pad: 0,
            part: Strides::new(&bindings.parts.layout, 4),
            out: Strides::new(&bindings.out.layout, 4),
        };
        let params = params_buffer(device, "merge params", &params)?;
        // Without parts there is nothing to read, and perhaps nothing that could be bound.
        let [parts, lse_parts] = [&bindings.parts.binding, &bindings.lse_parts]
            .map(|part| Some(part).filter(|_| shape.parts > 0));
        let call = self
            .pipeline
            .call()
            .bind(binding::PARAMS, params.as_entire_buffer_binding())
            .bind(binding::SINKS, self.sinks.as_entire_buffer_binding())
            .read(binding::PARTS, parts)
            .read(binding::LSE_PARTS, lse_parts)
            .tensor(binding::OUT, &bindings.out)
            .written(binding::LSE, bindings.lse.as_ref());
        Ok(call.dispatch(device, workgroups))
    }

    fn check(&self, shape: &MergeShape, bindings: &MergeBindings<'_>) -> Result<()> {
        let p = self.plan.problem();
        let MergeShape { parts, batch, heads, seq } = *shape;
        if !p.sinks.is_empty() && p.sinks.len() != heads as usize {
            return Err(Error::Invalid {
                what: "sinks",
                needed: "one a head, or none",
                got: format!("{} for {heads} heads", p.sinks.len()),
            });
        }
        let mut checker = Checker::new(&self.plan.capabilities);
        let all_heads = batch.saturating_mul(heads);
        let parts_shape = [parts, all_heads, seq, p.value_dim];
        checker.tensor("parts", &bindings.parts, Access::Read, p.part_dtype, parts_shape, 4)?;
        let rows = u64::from(all_heads) * u64::from(seq);
        let reach = self.plan.state_bytes() * rows * u64::from(parts);
        checker.binding("lse_parts", &bindings.lse_parts, Access::Read, reach)?;
        let out_shape = [batch, heads, seq, p.value_dim];
        checker.tensor("out", &bindings.out, Access::Write, p.out_dtype, out_shape, 4)?;
        checker.optional("lse", p.lse, bindings.lse.as_ref(), Access::Write, 4 * rows)
    }
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
