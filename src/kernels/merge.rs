//! Merges attention over parts of the keys on the device: compiles a [`MergePlan`], binds tensors.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{
    Access, Bind, Checker, Compiler, Dispatch, Pipeline, Tensor, Unused, present, uniform_buffer,
};
use crate::plan::merge::{MergePlan, MergeShape};
use crate::{Error, Layout, Result};

/// A compiled merge. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct Merge {
    plan: MergePlan,
    pipeline: Pipeline,
    sinks: wgpu::Buffer,
    unused: Unused,
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

/// Binding numbers, by the names of the shader's files.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const SINKS: u32 = 1;
    pub(super) const PARTS: u32 = 2;
    pub(super) const LSE_PARTS: u32 = 3;
    pub(super) const OUT: u32 = 5;
    pub(super) const LSE: u32 = 7;
}

/// `Params` of `shaders/merge.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Params {
    parts: u32,
    batch: u32,
    heads: u32,
    seq: u32,
    groups_x: u32,
    store_lse: u32,
    minus_infinity: f32,
    pad: u32,
    part: Quads,
    out: Quads,
}

/// `Quads` of `shaders/merge.wgsl`: offset and strides in groups of four channels.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
struct Quads {
    offset: u32,
    batch: u32,
    head: u32,
    row: u32,
}

impl Quads {
    fn new(layout: &Layout) -> Self {
        let [batch, head, row] = layout.strides.map(|stride| stride / 4);
        Self { offset: layout.offset / 4, batch, head, row }
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
        let device = compiler.device();
        let plan = MergePlan::new(plan.problem(), plan.state, &crate::Capabilities::of(device))?;
        Ok(Self {
            pipeline: Pipeline::new(compiler, plan.shader())?,
            sinks: uniform_buffer(device, "merge sinks", bytemuck::cast_slice(&plan.sinks()))?,
            unused: Unused::new(device)?,
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
        let p = self.plan.problem();
        let caps = &self.plan.capabilities;
        let MergeShape { parts, batch, heads, seq } = *shape;
        if !p.sinks.is_empty() && p.sinks.len() != heads as usize {
            return Err(Error::Invalid {
                what: "sinks",
                needed: "one a head, or none",
                got: format!("{} for {heads} heads", p.sinks.len()),
            });
        }
        let groups = self.plan.groups(shape)?;
        let mut checker = Checker::new(caps);
        let all_heads = batch * heads;
        let parts_shape = [parts, all_heads, seq, p.value_dim];
        checker.tensor("parts", &bindings.parts, Access::Read, p.part_dtype, parts_shape, 4)?;
        let rows = u64::from(all_heads) * u64::from(seq);
        let reach = self.plan.state_bytes() * rows * u64::from(parts);
        checker.binding("lse_parts", &bindings.lse_parts, Access::Read, reach)?;
        let out_shape = [batch, heads, seq, p.value_dim];
        checker.tensor("out", &bindings.out, Access::Write, p.out_dtype, out_shape, 4)?;
        present("lse", p.lse, bindings.lse.is_some())?;
        if let Some(lse) = &bindings.lse {
            checker.binding("lse", lse, Access::Write, 4 * rows)?;
        }
        if groups == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = caps.fold_groups(groups)?;
        let params = Params {
            parts,
            batch,
            heads,
            seq,
            groups_x: workgroups[0],
            store_lse: u32::from(p.lse),
            minus_infinity: f32::NEG_INFINITY,
            pad: 0,
            part: Quads::new(&bindings.parts.layout),
            out: Quads::new(&bindings.out.layout),
        };
        let params = uniform_buffer(device, "merge params", bytemuck::bytes_of(&params))?;
        // Without parts there is nothing to read, and perhaps nothing that could be bound.
        let (part, lse_parts) = match parts {
            0 => (self.unused.read(), self.unused.read()),
            _ => (bindings.parts.binding.clone(), bindings.lse_parts.clone()),
        };
        let entries = [
            (binding::PARAMS, params.as_entire_buffer_binding()),
            (binding::SINKS, self.sinks.as_entire_buffer_binding()),
            (binding::PARTS, part),
            (binding::LSE_PARTS, lse_parts),
            (binding::OUT, bindings.out.binding.clone()),
            (binding::LSE, bindings.lse.clone().unwrap_or_else(|| self.unused.written())),
        ];
        let bind = Bind { label: "merge", pipeline: &self.pipeline, entries: &entries, workgroups };
        Ok(Dispatch::new(device, &bind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::merge::MergeProblem;
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};

    host_struct!(Quads { offset, batch, head, row });
    host_struct!(Params {
        parts,
        batch,
        heads,
        seq,
        groups_x,
        store_lse,
        minus_infinity,
        pad,
        part,
        out,
    });

    fn source() -> String {
        let plan = MergeProblem::new(64).plan(&Capabilities::webgpu_default()).unwrap();
        plan.shader().source.clone()
    }

    #[test]
    fn host_struct_is_the_shaders() {
        assert_eq!(host_layout::<Params>(), wgsl_layout(&source(), "Params"));
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        let all = [
            (binding::PARAMS, "params"),
            (binding::SINKS, "sinks"),
            (binding::PARTS, "parts"),
            (binding::LSE_PARTS, "lse_parts"),
            (binding::OUT, "out"),
            (binding::LSE, "lse"),
        ];
        assert_eq!(wgsl_bindings(&source()), all.map(|(n, name)| (n, name.to_owned())));
    }
}
