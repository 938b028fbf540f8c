//! Linear attention: by the oracle, whose outputs are the sums that define it and whose state is
//! the recurrence's, and on a device.

use phasor::linear_attention::{
    LinearAttention, LinearAttentionBindings, LinearAttentionProblem, LinearAttentionShape, State,
};
use phasor::linear_attention_backward::{
    LinearAttentionBackward, LinearAttentionBackwardBindings, LinearAttentionBackwardProblem,
};
use phasor::oracle::{self, LinearInputs, LinearState, Real};
use phasor::rotary::Pairing;
use phasor::{DType, HeadMap, Layout, Tensor};

use super::{Device, Linear, device::ids_of, narrow, rotate, unrotate, widen};
use crate::cases::{LinearBackwardCase, LinearCase, Result};

/// Features of a case in a precision, as they are and rotated.
struct Features<R> {
    q: Vec<R>,
    q_rotated: Vec<R>,
    k: Vec<R>,
    k_rotated: Vec<R>,
    v: Vec<R>,
    heads: HeadMap,
}

impl<R: Real> Features<R> {
    fn of(case: &LinearCase) -> Result<Self> {
        let q = oracle::elu_plus_one(&narrow::<R>(&case.q));
        let k = oracle::elu_plus_one(&narrow::<R>(&case.k));
        let (q_rotated, k_rotated) = match &case.rotation {
            None => (q.clone(), k.clone()),
            Some(by) => (rotate(&q, case.q_shape, by)?, rotate(&k, case.k_shape, by)?),
        };
        let heads = HeadMap::plain(case.q_shape[1])?;
        Ok(Self { q, q_rotated, k, k_rotated, v: narrow(&case.v), heads })
    }

    fn inputs<'a>(&'a self, case: &LinearCase) -> LinearInputs<'a, R> {
        let config = case.rotation.as_ref().map(|rotation| &rotation.config);
        LinearInputs {
            q: &self.q,
            q_rotated: &self.q_rotated,
            q_shape: case.q_shape,
            k: &self.k,
            k_rotated: &self.k_rotated,
            k_shape: case.k_shape,
            v: &self.v,
            v_shape: case.v_shape,
            rotary_dim: config.map_or(0, |config| config.rotary_dim),
            pairing: config.map_or(Pairing::Half, |config| config.pairing),
            heads: self.heads.heads(),
            causal: case.causal,
        }
    }
}

pub(super) fn gradients_by_oracle<R: Real>(case: &LinearBackwardCase) -> Result<[Vec<f64>; 3]> {
    let LinearBackwardCase { linear: case, d_out, .. } = case;
    let features = Features::<R>::of(case)?;
    let all = oracle::linear_attention_backward(&features.inputs(case), &narrow::<R>(d_out))?;
    // What a feature is owed by its rotation and as it is, times the slope of the feature map.
    let owed = |x: &[f32], shape, rotated: &[R], plain: &[R]| -> Result<Vec<f64>> {
        let back = match &case.rotation {
            None => rotated.to_vec(),
            Some(by) => unrotate(rotated, shape, by)?,
        };
        let slopes = oracle::elu_plus_one_slope(&narrow::<R>(x));
        let owed = back.iter().zip(plain).zip(slopes).map(|((&a, &b), slope)| (a + b) * slope);
        Ok(widen(&owed.collect::<Vec<R>>()))
    };
    Ok([
        owed(&case.q, case.q_shape, &all.d_q_rotated, &all.d_q)?,
        owed(&case.k, case.k_shape, &all.d_k_rotated, &all.d_k)?,
        widen(&all.dv),
    ])
}

pub(super) fn by_oracle<R: Real>(case: &LinearCase) -> Result<Linear> {
    let features = Features::<R>::of(case)?;
    let inputs = features.inputs(case);
    let out = oracle::linear_attention(&inputs)?;
    let state = match case.state {
        None => [Vec::new(), Vec::new()],
        Some(_) => {
            let [batch, kv_heads, _, features] = case.k_shape;
            let mut state = LinearState::new(batch, kv_heads, features, case.v_shape[3]);
            oracle::linear_recurrence(&LinearInputs { causal: true, ..inputs }, &mut state)?;
            [widen(&state.s), widen(&state.z)]
        }
    };
    Ok(Linear { out: widen(&out), state })
}

fn problem(case: &LinearCase) -> Result<LinearAttentionProblem> {
    let [_, q_heads, _, head_dim] = case.q_shape;
    let config = case.rotation.as_ref().map(|rotation| &rotation.config);
    Ok(LinearAttentionProblem {
        value_dim: case.v_shape[3],
        rotary_dim: config.map_or(0, |config| config.rotary_dim),
        pairing: config.map_or(Pairing::Half, |config| config.pairing),
        causal: case.causal,
        ..LinearAttentionProblem::new(HeadMap::plain(q_heads)?, case.k_shape[1], head_dim)
    })
}

impl Device<'_> {
    /// By the kernel, over what the forward kernel wrote.
    pub(super) fn linear_gradients(&self, case: &LinearBackwardCase) -> Result<[Vec<f64>; 3]> {
        let LinearBackwardCase { linear: case, d_out, .. } = case;
        let [batch, q_heads, seq_q, _] = case.q_shape;
        let seq_k = case.k_shape[2];
        let gpu = self.gpu;
        let out: Vec<f32> = self.run_linear(case)?.out.iter().map(|&x| x as f32).collect();
        let plan = LinearAttentionBackwardProblem::new(problem(case)?).plan(&gpu.capabilities())?;
        let kernel = LinearAttentionBackward::new(&gpu.device, &plan)?;
        let shape = LinearAttentionShape { batch, seq_q, seq_k, resume: false };

        let inputs = [&case.q, &case.k, &case.v, &out, d_out].map(|x| gpu.upload(x, DType::F32));
        let grads = [&case.q, &case.k, &case.v].map(|x| gpu.output(x.len(), DType::F32));
        let workspace = gpu.output(plan.workspace_bytes(&shape) as usize / 4, DType::F32);
        let rotation = match &case.rotation {
            None => None,
            Some(rotation) => {
                Some((self.table(rotation)?, gpu.upload_u32(&rotation.positions.concat())))
            }
        };
        let tensor = |buffer, shape| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let (qs, ks, vs) = (case.q_shape, case.k_shape, case.v_shape);
        let out_shape = [batch, q_heads, seq_q, vs[3]];
        let [q, k, v, out, d_out] = &inputs;
        let [dq, dk, dv] = &grads;
        let mut bindings = LinearAttentionBackwardBindings::new(
            [tensor(q, qs)?, tensor(k, ks)?, tensor(v, vs)?],
            tensor(out, out_shape)?,
            tensor(d_out, out_shape)?,
            [tensor(dq, qs)?, tensor(dk, ks)?, tensor(dv, vs)?],
            workspace.as_entire_buffer_binding(),
        );
        bindings.rotation = rotation.as_ref().map(|(table, ids)| table.at(ids_of(ids, seq_k)));
        self.run(&kernel, &shape, &bindings)?;
        let lens = [case.q.len(), case.k.len(), case.v.len()];
        Ok([0, 1, 2].map(|n| self.download(&grads[n], lens[n])))
    }

    pub(super) fn run_linear(&self, case: &LinearCase) -> Result<Linear> {
        let [batch, q_heads, seq_q, head_dim] = case.q_shape;
        let [_, kv_heads, seq_k, _] = case.k_shape;
        let problem = LinearAttentionProblem { state: true, ..problem(case)? };
        let gpu = self.gpu;
        let plan = problem.plan(&gpu.capabilities())?;
        let kernel = LinearAttention::new(&gpu.device, &plan)?;
        let shape = LinearAttentionShape { batch, seq_q, seq_k, resume: false };

        let [q, k, v] = [&case.q, &case.k, &case.v].map(|x| gpu.upload(x, DType::F32));
        let elements = |shape: [u32; 4]| shape.iter().map(|&n| n as usize).product::<usize>();
        let out_shape = [batch, q_heads, seq_q, case.v_shape[3]];
        let s_len = elements([batch, kv_heads, head_dim, case.v_shape[3]]);
        let z_len = elements([batch, kv_heads, head_dim, 1]);
        let [out, s, z] =
            [elements(out_shape), s_len, z_len].map(|len| gpu.output(len, DType::F32));
        let workspace = gpu.output(plan.workspace_bytes(&shape) as usize / 4, DType::F32);
        let rotation = match &case.rotation {
            None => None,
            Some(rotation) => {
                rotation.check(seq_q)?;
                rotation.check(seq_k)?;
                Some((self.table(rotation)?, gpu.upload_u32(&rotation.positions.concat())))
            }
        };
        let tensor = |buffer, shape| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let bindings = LinearAttentionBindings {
            q: tensor(&q, case.q_shape)?,
            k: tensor(&k, case.k_shape)?,
            v: tensor(&v, case.v_shape)?,
            out: tensor(&out, out_shape)?,
            workspace: workspace.as_entire_buffer_binding(),
            rotation: rotation.as_ref().map(|(table, ids)| table.at(ids_of(ids, seq_k))),
            q_positions: None,
            state: Some(State { s: s.as_entire_buffer_binding(), z: z.as_entire_buffer_binding() }),
            random: None,
        };
        self.run(&kernel, &shape, &bindings)?;
        Ok(Linear {
            out: self.download(&out, elements(out_shape)),
            state: [self.download(&s, s_len), self.download(&z, z_len)],
        })
    }
}
