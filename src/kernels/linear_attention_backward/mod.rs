//! Backward calls of linear attention: tensors in, a recipe out.

mod bindings;
mod params;

use crate::call::{
    Access, Binding, Checker, Plan, Recipe, RotaryParams, Rotation, Step, Strides, present,
};
use crate::kernels::linear_attention::{head_table, rotaries};
use crate::plan::linear_attention::LinearAttentionShape;
use crate::plan::linear_attention_backward::{LinearAttentionBackwardPlan, Pass};
use crate::plan::{KernelKind, Shader, binding};
use crate::{DType, Error, Layout, Result};
pub use bindings::LinearAttentionBackwardBindings;
use params::Params;

impl Plan for LinearAttentionBackwardPlan {
    const KERNEL: KernelKind = KernelKind::LinearAttentionBackward;

    type Shape<'s> = LinearAttentionShape;
    type Bindings<B> = LinearAttentionBackwardBindings<B>;

    fn stages(&self) -> Vec<&Shader> {
        self.shaders().iter().collect()
    }

    fn tables(&self) -> Vec<Option<Vec<u8>>> {
        let table = head_table(&self.problem().attention.heads, self.head_slots());
        let of = |shader: &Shader| (shader.table_bytes > 0).then(|| table.clone());
        self.shaders().iter().map(of).collect()
    }

    fn recipe<B: Binding>(
        &self,
        shape: &LinearAttentionShape,
        bindings: &LinearAttentionBackwardBindings<B>,
    ) -> Result<Recipe<B>> {
        let call = Call::check(self, shape, bindings)?;
        let mut steps = Vec::new();
        for (stage, &pass) in self.passes().iter().enumerate() {
            let groups = self.groups(shape, pass);
            if groups > 0 {
                let step = Step::new(stage, self.capabilities.fold_groups(groups)?);
                steps.push(call.bind(pass, step));
            }
        }
        Ok(Recipe { steps })
    }
}

/// A call that has passed every check.
struct Call<'a, B> {
    plan: &'a LinearAttentionBackwardPlan,
    shape: &'a LinearAttentionShape,
    bindings: &'a LinearAttentionBackwardBindings<B>,
    q_rotary: RotaryParams,
    k_rotary: RotaryParams,
}

impl<'a, B: Binding> Call<'a, B> {
    fn check(
        plan: &'a LinearAttentionBackwardPlan,
        shape: &'a LinearAttentionShape,
        bindings: &'a LinearAttentionBackwardBindings<B>,
    ) -> Result<Self> {
        let p = &plan.problem().attention;
        let LinearAttentionShape { batch, seq_q, seq_k, .. } = *shape;
        shape.check(p)?;
        let mut checker = Checker::new(&plan.capabilities);
        let (heads_out, f) = (p.heads.heads().len() as u32, p.feature_dim());
        let q_shape = [batch, p.heads.q_heads(), seq_q, p.head_dim];
        let k_shape = [batch, p.kv_heads, seq_k, p.head_dim];
        let v_shape = [batch, p.kv_heads, seq_k, p.value_dim];
        let out_shape = [batch, heads_out, seq_q, p.value_dim];
        for (name, tensor, dtype, shape) in [
            ("q", &bindings.q, p.q_dtype, q_shape),
            ("k", &bindings.k, p.kv_dtype, k_shape),
            ("v", &bindings.v, p.kv_dtype, v_shape),
            ("out", &bindings.out, p.out_dtype, out_shape),
            ("d_out", &bindings.d_out, p.out_dtype, out_shape),
        ] {
            checker.tensor(name, tensor, Access::Read, dtype, shape, 4)?;
        }
        for (name, tensor, shape) in [
            ("dq", &bindings.dq, q_shape),
            ("dk", &bindings.dk, k_shape),
            ("dv", &bindings.dv, v_shape),
        ] {
            checker.tensor(name, tensor, Access::Write, DType::F32, shape, 1)?;
        }
        let workspace = plan.workspace(shape).len;
        if u32::try_from(workspace).is_err() {
            return Err(Error::IndexOverflow { tensor: "workspace", index: workspace });
        }
        checker.binding("workspace", &bindings.workspace, Access::Scratch, 16 * workspace)?;
        let s = 4 * Layout::bhsd([batch, p.kv_heads, f, p.value_dim])?.elements();
        let z = 4 * Layout::bhsd([batch, p.kv_heads, f, 1])?.elements();
        for (names, state, access) in [
            (["state", "state s", "state z"], &bindings.state, Access::Read),
            (["d_state", "d_state s", "d_state z"], &bindings.d_state, Access::Write),
        ] {
            present(names[0], p.state, state.is_some())?;
            if let Some(state) = state {
                checker.binding(names[1], &state.s, access, s)?;
                checker.binding(names[2], &state.z, access, z)?;
            }
        }
        let by = (bindings.rotation.as_ref(), bindings.q_positions.as_ref());
        let (q_rotary, k_rotary) = rotaries(&mut checker, p, shape, by)?;
        Ok(Self { plan, shape, bindings, q_rotary, k_rotary })
    }

    fn params(&self, pass: Pass, groups_x: u32) -> Params {
        let p = &self.plan.problem().attention;
        let workspace = self.plan.workspace(self.shape);
        let [keys, queries] = self.plan.chunks(self.shape);
        let side = usize::from(pass.is_of_queries());
        // All fit: the workspace was checked to have no more than 2^32 vectors.
        let at = |place: u64| place as u32;
        let Self { bindings, shape, .. } = self;
        let grad = match pass {
            Pass::Dk => &bindings.dk,
            Pass::Dv => &bindings.dv,
            _ => &bindings.dq,
        };
        // dk and dv rotate keys; where they meet queries there is a causal mask, and both have the
        // same positions.
        let of_keys = matches!(pass, Pass::KeySums | Pass::Dk | Pass::Dv);
        // The gradient of the state is read where there is a state, whether the call resumes or
        // not.
        let resume = if pass.is_of_queries() { p.state } else { shape.resume };
        Params {
            batch: shape.batch,
            seq_q: shape.seq_q,
            seq_k: shape.seq_k,
            kv_heads: p.kv_heads,
            group: p.heads.q_heads() / p.kv_heads,
            groups_x,
            chunks: [keys, queries][side],
            tiles: if pass == Pass::Dq { queries } else { keys },
            heads_out: p.heads.heads().len() as u32,
            resume: u32::from(resume),
            plane_q: 0,
            plane_k: bindings.rotation.as_ref().map_or(0, Rotation::plane_k),
            states_at: at(workspace.states_at[side]),
            z_at: at(workspace.z_at[side]),
            rows_at: at(workspace.rows_at),
            q_heads: p.heads.q_heads(),
            q: Strides::new(&bindings.q.layout, 4),
            k: Strides::new(&bindings.k.layout, 4),
            v: Strides::new(&bindings.v.layout, 4),
            out: Strides::new(&bindings.out.layout, 4),
            d_out: Strides::new(&bindings.d_out.layout, 4),
            grad: Strides::new(&grad.layout, 1),
            rotary: if of_keys { self.k_rotary } else { self.q_rotary },
        }
    }

    /// The dispatch of a pass, with its parameters and all that it binds.
    fn bind(&self, pass: Pass, step: Step<B>) -> Step<B> {
        let b = self.bindings;
        let groups_x = step.workgroups[0];
        let step = step.params(&self.params(pass, groups_x)).bind(binding::WORKSPACE, &b.workspace);
        // Without rows of one side its tensors may be empty buffers, which cannot be bound: nothing
        // reads them.
        let read = |step: Step<B>, tensors: &[u32]| {
            let all = [
                (binding::Q, &b.q, self.shape.seq_q),
                (binding::K, &b.k, self.shape.seq_k),
                (binding::V, &b.v, self.shape.seq_k),
                (binding::D_OUT, &b.d_out, self.shape.seq_q),
            ];
            let read = all.into_iter().filter(|(number, ..)| tensors.contains(number));
            read.fold(step, |step, (number, tensor, rows)| {
                step.declared(number, Some(&tensor.binding).filter(|_| rows > 0))
            })
        };
        let rotation = |step: Step<B>| match pass {
            Pass::KeySums | Pass::Dk | Pass::Dv => step.rotation(b.rotation.as_ref()),
            _ => step.rotation(self.q_rotation().as_ref()),
        };
        let scan = |step: Step<B>, state: &Option<crate::kernels::linear_attention::State<B>>| {
            let state = state.as_ref();
            step.optional(binding::STATE_S, state.map(|state| &state.s))
                .optional(binding::STATE_Z, state.map(|state| &state.z))
        };
        let gradient = |step: Step<B>, tensors: &[u32], grad| {
            rotation(read(step, tensors)).table(binding::HEADS).tensor(binding::GRAD, grad)
        };
        use binding::{D_OUT, HEADS, K, OUT, Q, V};
        match pass {
            Pass::KeySums => rotation(read(step, &[K, V])),
            Pass::KeyScan => scan(step, &b.state),
            Pass::KeyRunning => read(step, &[K]),
            Pass::Rows => read(step, &[Q, D_OUT]).table(HEADS).tensor(OUT, &b.out),
            Pass::QuerySums => rotation(read(step, &[Q, D_OUT])).table(HEADS),
            Pass::QueryScan => scan(step, &b.d_state),
            Pass::QueryRunning => read(step, &[Q]).table(HEADS),
            Pass::Dq => gradient(step, &[Q, K, V, D_OUT], &b.dq),
            Pass::Dk => gradient(step, &[Q, K, V, D_OUT], &b.dk),
            Pass::Dv => gradient(step, &[Q, K, D_OUT], &b.dv),
        }
    }

    /// The rotation of the queries.
    fn q_rotation(&self) -> Option<Rotation<B>> {
        let rotation = self.bindings.rotation.clone()?;
        let positions = self.bindings.q_positions.clone().unwrap_or(rotation.positions);
        Some(Rotation { positions, ..rotation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::linear_attention::LinearAttentionProblem;
    use crate::plan::linear_attention_backward::LinearAttentionBackwardProblem;
    use crate::reflect::assert_uniform;
    use crate::{Capabilities, HeadMap};

    #[test]
    fn params_are_the_shaders() {
        let forward = LinearAttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64);
        let problem = LinearAttentionBackwardProblem::new(forward);
        for shader in problem.plan(&Capabilities::webgpu_default()).unwrap().shaders() {
            assert_uniform::<Params>(&shader.source, "Params");
        }
    }
}
