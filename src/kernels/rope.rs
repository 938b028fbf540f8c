//! Rotation on the device: compiles a [`RopePlan`], binds tensors to it.

#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::gpu::{
    Access, Checker, Compiler, Dispatch, Pipeline, Reach, RotaryParams, Rotation, Strides, Tensor,
    params_buffer, present,
};
use crate::plan::binding;
use crate::plan::rope::{Direction, RopePlan, RopeShape};
use crate::uniform::uniform;

/// A compiled rotation. It belongs to the device it was made on and is cheap to clone.
#[derive(Debug, Clone)]
pub struct Rope {
    plan: RopePlan,
    pipeline: Pipeline,
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
    /// Table and positions.
    pub rotation: Rotation<'a>,
}

impl<'a> RopeBindings<'a> {
    /// Q alone, rotated in place; fill in K, and the outputs where it is not in place.
    pub fn new(q: Tensor<'a>, rotation: Rotation<'a>) -> Self {
        Self { q, k: None, q_out: None, k_out: None, rotation }
    }
}

uniform! {
    /// `Params` of `shaders/rope/params.wgsl`.
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
        q_in: Strides,
        k_in: Strides,
        q_out: Strides,
        k_out: Strides,
        rotary: RotaryParams,
    }
}

impl Rope {
    /// Compiles `plan`, on a device or through a [`Compiler`], once for every configuration.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &RopePlan) -> Result<Self> {
        let compiler = compiler.into();
        let plan = plan.on(compiler.capabilities())?;
        Ok(Self { pipeline: Pipeline::new(compiler, plan.shader())?, plan })
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
        let rotary = self.check(shape, bindings)?;
        let (blocks, groups) = self.plan.groups(shape);
        if groups == 0 {
            return Ok(Dispatch::empty());
        }
        let workgroups = self.plan.capabilities.fold_groups(groups)?;
        let params = Params {
            groups_x: workgroups[0],
            blocks: blocks as u32,
            rotary,
            ..self.params(shape, bindings)
        };
        let params = params_buffer(device, "rope params", &params)?;
        let call = self.pipeline.call().bind(binding::PARAMS, params.as_entire_buffer_binding());
        let k = bindings.k.as_ref().map(|k| &k.binding);
        let call = match (&bindings.q_out, &bindings.k_out) {
            (Some(q_out), k_out) => call
                .tensor(binding::Q_IN, &bindings.q)
                .read(binding::K_IN, k)
                .tensor(binding::Q_OUT, q_out)
                .written(binding::K_OUT, k_out.as_ref().map(|k_out| &k_out.binding)),
            (None, _) => call.tensor(binding::Q_OUT, &bindings.q).written(binding::K_OUT, k),
        };
        Ok(call.rotation(Some(&bindings.rotation)).dispatch(device, workgroups))
    }

    fn check(&self, shape: &RopeShape, bindings: &RopeBindings<'_>) -> Result<RotaryParams> {
        let p = self.plan.problem();
        let RopeShape { batch, seq } = *shape;
        let (has_k, apart) = (p.k_heads > 0, !p.in_place);
        present("k", has_k, bindings.k.is_some())?;
        present("q_out", apart, bindings.q_out.is_some())?;
        present("k_out", apart && has_k, bindings.k_out.is_some())?;
        let mut checker = Checker::new(&self.plan.capabilities);
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
        let Rotation { table, positions } = &bindings.rotation;
        let reach = Reach::rows(batch, seq);
        RotaryParams::new(&mut checker, table, positions, p.rotary_dim, reach)
    }

    /// All but the rotation and the numbers of workgroups.
    fn params(&self, shape: &RopeShape, bindings: &RopeBindings<'_>) -> Params {
        let p = self.plan.problem();
        let (gain, direction, plane_q, plane_k) = match p.direction {
            Direction::Forward => (1.0, 1.0, 0, bindings.rotation.plane_k()),
            // xPos: the plane of keys holds the reciprocal scale, which is what q needs to go back.
            Direction::Inverse => {
                (p.attention_scaling.powi(-2) as f32, -1.0, bindings.rotation.plane_k(), 0)
            }
        };
        let strides = |tensor: Option<&Tensor<'_>>| {
            tensor.map_or(Strides::default(), |t| Strides::new(&t.layout, self.plan.unit))
        };
        let (q, k) = (strides(Some(&bindings.q)), strides(bindings.k.as_ref()));
        Params {
            batch: shape.batch,
            seq: shape.seq,
            heads_q: p.q_heads,
            heads_k: p.k_heads,
            head_blocks: self.plan.head_blocks(),
            plane_q,
            plane_k,
            gain,
            direction,
            q_in: q,
            k_in: k,
            q_out: if p.in_place { q } else { strides(bindings.q_out.as_ref()) },
            k_out: if p.in_place { k } else { strides(bindings.k_out.as_ref()) },
            ..Params::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::rope::RopeProblem;
    use crate::reflect::assert_uniform;

    #[test]
    fn params_are_the_shaders() {
        for aligned in [false, true] {
            let problem = RopeProblem { aligned, ..RopeProblem::new(2, 1, 64) };
            let plan = problem.plan(&Capabilities::webgpu_default()).unwrap();
            assert_uniform::<Params>(&plan.shader().source, "Params");
        }
    }
}
