//! Rotation on the device: compiles a [`RopePlan`], binds tensors to it.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{
    Access, Bind, COS_SIN, Checker, Compiler, CosSin, Dispatch, POSITION_IDS, Pipeline, Positions,
    RotaryParams, Tensor, Unused, uniform_buffer,
};
use crate::plan::rope::{Direction, RopePlan, RopeShape};
use crate::{Error, Layout, Result};

/// A compiled rotation. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct Rope {
    plan: RopePlan,
    pipeline: Pipeline,
    unused: Unused,
}

/// The tensors of one rotation. In place, `q_out` and `k_out` are `None`, and `q` and `k` are
/// overwritten.
#[derive(Debug, Clone)]
pub struct RopeBindings<'a> {
    /// `[B, H_q, S, D]`.
    pub q: Tensor<'a>,
    /// `[B, H_k, S, D]`; `None` where the problem has no K.
    pub k: Option<Tensor<'a>>,
    /// `[B, H_q, S, D]`, written.
    pub q_out: Option<Tensor<'a>>,
    /// `[B, H_k, S, D]`, written.
    pub k_out: Option<Tensor<'a>>,
    /// cos and sin of every position.
    pub table: CosSin<'a>,
    /// The position of each row.
    pub positions: Positions<'a>,
}

/// Binding numbers, by the names of `shaders/rope`.
mod binding {
    pub(super) const PARAMS: u32 = 0;
    pub(super) const Q_IN: u32 = 2;
    pub(super) const K_IN: u32 = 3;
    pub(super) const Q_OUT: u32 = 5;
    pub(super) const K_OUT: u32 = 6;
}

/// `Params` of `shaders/rope/params.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Params {
    batch: u32,
    seq: u32,
    heads_q: u32,
    heads_k: u32,
    groups_x: u32,
    head_blocks: u32,
    blocks: u32,
    plane_q: u32,
    plane_k: u32,
    gain: f32,
    direction: f32,
    pad: u32,
    q_in: [u32; 4],
    k_in: [u32; 4],
    q_out: [u32; 4],
    k_out: [u32; 4],
    rotary: RotaryParams,
}

impl Rope {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &RopePlan) -> Result<Self> {
        let compiler = compiler.into();
        let device = compiler.device();
        let plan = plan.problem().plan(&crate::Capabilities::of(device))?;
        let pipeline = Pipeline::new(compiler, plan.shader())?;
        Ok(Self { pipeline, unused: Unused::new(device)?, plan })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &RopePlan {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, dtypes and
    /// limits; [`Error::Binding`] for a tensor too many or too few; [`Error::TableTooShort`] where
    /// a row has a position past the table. The buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &RopeShape,
        bindings: &RopeBindings<'_>,
    ) -> Result<Dispatch> {
        let p = self.plan.problem();
        let caps = &self.plan.capabilities;
        let mut checker = Checker::new(caps);
        let RopeShape { batch, seq } = *shape;
        let given = |tensor, is: bool, should: bool, missing, extra| match (is, should) {
            (false, true) => Err(Error::Binding { tensor, why: missing }),
            (true, false) => Err(Error::Binding { tensor, why: extra }),
            _ => Ok(()),
        };
        let (has_k, apart) = (p.k_heads > 0, !p.in_place);
        given("k", bindings.k.is_some(), has_k, "missing: k_heads > 0", "given: k_heads = 0")?;
        let (missing, extra) = ("missing: the plan is not in place", "given: no such output");
        given("q_out", bindings.q_out.is_some(), apart, missing, extra)?;
        given("k_out", bindings.k_out.is_some(), apart && has_k, missing, extra)?;

        let access = if p.in_place { Access::Write } else { Access::Read };
        let tensors = [
            ("q", Some(&bindings.q), access, p.q_heads),
            ("k", bindings.k.as_ref(), access, p.k_heads),
            ("q_out", bindings.q_out.as_ref(), Access::Write, p.q_heads),
            ("k_out", bindings.k_out.as_ref(), Access::Write, p.k_heads),
        ];
        for (name, tensor, access, heads) in tensors {
            if let Some(tensor) = tensor {
                let dims = [batch, heads, seq, p.head_dim];
                checker.tensor(name, tensor, access, p.dtype, dims, self.plan.alignment)?;
            }
        }
        let rotary = RotaryParams::new(
            &mut checker,
            &bindings.table,
            &bindings.positions,
            p.rotary_dim,
            [batch, seq],
        )?;
        let (blocks, groups) = self.plan.groups(shape);
        if groups == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = caps.fold_groups(groups)?;

        let last_plane = bindings.table.shape.planes.saturating_sub(1);
        let (gain, direction, plane_q, plane_k) = match p.direction {
            Direction::Forward => (1.0, 1.0, 0, last_plane),
            // xPos: the plane of keys holds the reciprocal scale, which is what q needs to go back.
            Direction::Inverse => (p.attention_scaling.powi(-2) as f32, -1.0, last_plane, 0),
        };
        let strides = |tensor: Option<&Tensor<'_>>| {
            tensor.map_or([0; 4], |t| entries_of(&t.layout, self.plan.unit))
        };
        let q = strides(Some(&bindings.q));
        let k = strides(bindings.k.as_ref());
        let params = Params {
            batch,
            seq,
            heads_q: p.q_heads,
            heads_k: p.k_heads,
            groups_x: workgroups[0],
            head_blocks: self.plan.head_blocks(),
            blocks: blocks as u32,
            plane_q,
            plane_k,
            gain,
            direction,
            pad: 0,
            q_in: q,
            k_in: k,
            q_out: if p.in_place { q } else { strides(bindings.q_out.as_ref()) },
            k_out: if p.in_place { k } else { strides(bindings.k_out.as_ref()) },
            rotary,
        };
        let params = uniform_buffer(device, "rope params", bytemuck::bytes_of(&params))?;
        let mut entries = vec![
            (binding::PARAMS, params.as_entire_buffer_binding()),
            (COS_SIN, bindings.table.binding.clone()),
            (
                POSITION_IDS,
                match &bindings.positions {
                    Positions::Ids { binding, .. } => binding.clone(),
                    _ => self.unused.read(),
                },
            ),
        ];
        if p.in_place {
            entries.push((binding::Q_OUT, bindings.q.binding.clone()));
            entries.push((binding::K_OUT, self.unused.or_written(bindings.k.as_ref())));
        } else {
            entries.push((binding::Q_IN, bindings.q.binding.clone()));
            entries.push((binding::K_IN, self.unused.or_read(bindings.k.as_ref())));
            entries.push((binding::Q_OUT, self.unused.or_written(bindings.q_out.as_ref())));
            entries.push((binding::K_OUT, self.unused.or_written(bindings.k_out.as_ref())));
        }
        let bind = Bind { label: "rope", pipeline: &self.pipeline, entries: &entries, workgroups };
        Ok(Dispatch::new(device, &bind))
    }
}

/// Offset and strides in entries of `unit` elements.
fn entries_of(layout: &Layout, unit: u32) -> [u32; 4] {
    let [batch, head, row] = layout.strides;
    [layout.offset, batch, head, row].map(|x| x / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::rope::RopeProblem;
    use crate::reflect::{host_layout, host_struct, wgsl_bindings, wgsl_layout};

    host_struct!(Params {
        batch,
        seq,
        heads_q,
        heads_k,
        groups_x,
        head_blocks,
        blocks,
        plane_q,
        plane_k,
        gain,
        direction,
        pad,
        q_in,
        k_in,
        q_out,
        k_out,
        rotary,
    });

    fn source(in_place: bool, aligned: bool) -> String {
        let mut problem = RopeProblem::new(2, 1, 64);
        (problem.in_place, problem.aligned) = (in_place, aligned);
        problem.plan(&Capabilities::webgpu_default()).unwrap().shader().source.clone()
    }

    #[test]
    fn host_struct_is_the_shaders() {
        for aligned in [false, true] {
            let wgsl = wgsl_layout(&source(false, aligned), "Params");
            assert_eq!(host_layout::<Params>(), wgsl);
        }
    }

    #[test]
    fn binding_numbers_are_the_shaders() {
        let inputs = [(binding::Q_IN, "q_in"), (binding::K_IN, "k_in")];
        let outputs = [(binding::Q_OUT, "q_out"), (binding::K_OUT, "k_out")];
        let table = [(COS_SIN, "cos_sin"), (POSITION_IDS, "position_ids")];
        for (in_place, aligned) in [(false, false), (false, true), (true, false), (true, true)] {
            let inputs = inputs.into_iter().filter(|_| !in_place);
            let all = [(binding::PARAMS, "params")].into_iter().chain(inputs);
            let all = all.chain(outputs).chain(table).map(|(n, name)| (n, name.to_owned()));
            assert_eq!(wgsl_bindings(&source(in_place, aligned)), all.collect::<Vec<_>>());
        }
    }
}
