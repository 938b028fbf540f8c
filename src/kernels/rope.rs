//! Calls of a rotation: tensors in, a recipe out.

use crate::Result;
use crate::call::{
    Access, Binding, Checker, Plan, Reach, Recipe, RotaryParams, Rotation, Step, Strides, Tensor,
    present,
};
use crate::plan::rope::{Direction, RopePlan, RopeShape};
use crate::plan::{KernelKind, Shader, binding};
use crate::uniform::uniform;

/// The tensors of one rotation. In place, `q_out` and `k_out` are `None`, and `q` and `k` are
/// overwritten.
#[derive(Debug, Clone)]
pub struct RopeBindings<B> {
    /// `[B, H_q, S, D]`.
    pub q: Tensor<B>,
    /// `[B, H_k, S, D]`; `None` where the problem has no K.
    pub k: Option<Tensor<B>>,
    /// `[B, H_q, S, D]`, written.
    pub q_out: Option<Tensor<B>>,
    /// `[B, H_k, S, D]`, written.
    pub k_out: Option<Tensor<B>>,
    /// Table and positions.
    pub rotation: Rotation<B>,
}

impl<B> RopeBindings<B> {
    /// Q alone, rotated in place; fill in K, and the outputs where it is not in place.
    pub fn new(q: Tensor<B>, rotation: Rotation<B>) -> Self {
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

impl Plan for RopePlan {
    const KERNEL: KernelKind = KernelKind::Rope;

    type Shape<'s> = RopeShape;
    type Bindings<B> = RopeBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        vec![self.shader()]
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        vec![None]
    }

    fn recipe<B: Binding>(
        &self,
        shape: &RopeShape,
        bindings: &RopeBindings<B>,
    ) -> Result<Recipe<B>> {
        let rotary = check(self, shape, bindings)?;
        let (blocks, groups) = self.groups(shape);
        if groups == 0 {
            return Ok(Recipe::empty());
        }
        let workgroups = self.capabilities.fold_groups(groups)?;
        let step = Step::new(0, workgroups).params(&Params {
            groups_x: workgroups[0],
            blocks: blocks as u32,
            rotary,
            ..params(self, shape, bindings)
        });
        let k = bindings.k.as_ref().map(|k| &k.binding);
        let step = match (&bindings.q_out, &bindings.k_out) {
            (Some(q_out), k_out) => step
                .tensor(binding::Q_IN, &bindings.q)
                .declared(binding::K_IN, k)
                .tensor(binding::Q_OUT, q_out)
                .declared(binding::K_OUT, k_out.as_ref().map(|k_out| &k_out.binding)),
            (None, _) => step.tensor(binding::Q_OUT, &bindings.q).declared(binding::K_OUT, k),
        };
        Ok(step.rotation(Some(&bindings.rotation)).into())
    }
}

fn check<B: Binding>(
    plan: &RopePlan,
    shape: &RopeShape,
    bindings: &RopeBindings<B>,
) -> Result<RotaryParams> {
    let p = plan.problem();
    let RopeShape { batch, seq } = *shape;
    let (has_k, apart) = (p.k_heads > 0, !p.in_place);
    present("k", has_k, bindings.k.is_some())?;
    present("q_out", apart, bindings.q_out.is_some())?;
    present("k_out", apart && has_k, bindings.k_out.is_some())?;
    let mut checker = Checker::new(&plan.capabilities);
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
            checker.tensor(name, tensor, access, p.dtype, dims, plan.alignment)?;
        }
    }
    let Rotation { table, positions } = &bindings.rotation;
    let reach = Reach::rows(batch, seq);
    RotaryParams::new(&mut checker, table, positions, p.rotary_dim, reach)
}

/// All but the rotation and the numbers of workgroups.
fn params<B: Binding>(plan: &RopePlan, shape: &RopeShape, bindings: &RopeBindings<B>) -> Params {
    let p = plan.problem();
    let (gain, direction, plane_q, plane_k) = match p.direction {
        Direction::Forward => (1.0, 1.0, 0, bindings.rotation.plane_k()),
        // xPos: the plane of keys holds the reciprocal scale, which is what q needs to go back.
        Direction::Inverse => {
            (p.attention_scaling.powi(-2) as f32, -1.0, bindings.rotation.plane_k(), 0)
        }
    };
    let strides = |tensor: Option<&Tensor<B>>| {
        tensor.map_or(Strides::default(), |t| Strides::new(&t.layout, plan.unit))
    };
    let (q, k) = (strides(Some(&bindings.q)), strides(bindings.k.as_ref()));
    Params {
        batch: shape.batch,
        seq: shape.seq,
        heads_q: p.q_heads,
        heads_k: p.k_heads,
        head_blocks: plan.head_blocks(),
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
