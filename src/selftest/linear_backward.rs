//! The probe of the gradients of linear attention.

use super::inputs::{Turn, numbers, wide};
use super::memory::Contents;
use super::probes::{Expected, Ready};
use crate::gpu::{Positions, Rotation};
use crate::linear_attention_backward::{LinearAttentionBackward, LinearAttentionBackwardBindings};
use crate::oracle::{self, LinearInputs, Real};
use crate::plan::linear_attention::{LinearAttentionProblem, LinearAttentionShape};
use crate::plan::linear_attention_backward::LinearAttentionBackwardProblem;
use crate::rotary::Pairing;
use crate::{Capabilities, DType, HeadMap, Layout, Result};

/// Past a chunk, and not at the end of one.
const ROWS: u32 = 80;
const DIM: u32 = 64;

/// What the forward pass gives, and dq, dk and dv.
fn gradients<R: Real>(
    turn: &Turn,
    [q, k, v, d_out]: [&[f32]; 4],
    heads: &HeadMap,
) -> Result<(Vec<R>, [Vec<R>; 3])> {
    let shape = [1, 1, ROWS, DIM];
    let [raw_q, raw_k, v, d_out] = [q, k, v, d_out].map(wide::<R>);
    let (q, k) = (oracle::elu_plus_one(&raw_q), oracle::elu_plus_one(&raw_k));
    let inputs = LinearInputs {
        q: &q,
        q_rotated: &turn.apply(&q, shape, 0)?,
        q_shape: shape,
        k: &k,
        k_rotated: &turn.apply(&k, shape, 0)?,
        k_shape: shape,
        v: &v,
        v_shape: shape,
        rotary_dim: DIM,
        pairing: Pairing::Half,
        heads: heads.heads(),
        causal: true,
    };
    let all = oracle::linear_attention_backward(&inputs, &d_out)?;
    let owed = |x: &[R], rotated: &[R], plain: &[R]| -> Result<Vec<R>> {
        let back = oracle::unrope(rotated, shape, DIM, Pairing::Half, |_, s, pair| {
            let (cos, sin) = turn.frequencies.cos_sin(s, pair as usize);
            (R::from_f64(cos), R::from_f64(sin))
        })?;
        let sums = back.into_iter().zip(plain).zip(oracle::elu_plus_one_slope(x));
        Ok(sums.map(|((a, &b), slope)| (a + b) * slope).collect())
    };
    let dq = owed(&raw_q, &all.d_q_rotated, &all.d_q)?;
    let dk = owed(&raw_k, &all.d_k_rotated, &all.d_k)?;
    Ok((oracle::linear_attention(&inputs)?, [dq, dk, all.dv]))
}

/// Causal, both components, over more than a chunk.
pub(super) fn linear_backward(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
    let heads = HeadMap::ropepp(1)?;
    let turn = Turn::new()?;
    let x = [(1, 1), (1, 2), (1, 3), (2, 4)].map(|(n, seed)| numbers(n * ROWS * DIM, seed));
    let x = x.each_ref().map(Vec::as_slice);
    let (out, truth) = gradients::<f64>(&turn, x, &heads)?;
    let (_, naive) = gradients::<f32>(&turn, x, &heads)?;
    let plan = LinearAttentionBackwardProblem::new(LinearAttentionProblem::new(heads, 1, DIM))
        .plan(caps)?;
    let shape = LinearAttentionShape::new(1, ROWS);
    let mut contents = Contents::new(caps);
    let [q, k, v, d_out] = x.map(|x| contents.numbers(x, DType::F32));
    let out: Vec<f32> = out.into_iter().map(|x| x as f32).collect();
    let out = contents.numbers(&out, DType::F32);
    let outputs = [0, 1, 2].map(|_| contents.output((ROWS * DIM) as usize, DType::F32));
    let workspace = contents.scratch(plan.workspace_bytes(&shape));
    let table = turn.write(&mut contents);
    let memory = contents.upload(device);
    let of = |heads| Layout::bhsd([1, heads, ROWS, DIM]);
    let (one, two) = (of(1)?, of(2)?);
    let tensor = |slot, layout| memory.tensor(slot, DType::F32, layout);
    let mut bindings = LinearAttentionBackwardBindings::new(
        [q, k, v].map(|slot| tensor(slot, one)),
        tensor(out, two),
        tensor(d_out, two),
        outputs.map(|slot| tensor(slot, one)),
        memory.at(workspace),
    );
    bindings.rotation = Some(Rotation::new(turn.bind(&memory, table)?, Positions::From(0)));
    let dispatch = LinearAttentionBackward::new(device, &plan)?.bind(device, &shape, &bindings)?;
    let all = outputs.into_iter().zip(["dq", "dk", "dv"]).zip(truth).zip(&naive);
    let outputs = all
        .map(|(((slot, what), truth), naive)| (slot, Expected::new(what, DType::F32, truth, naive)))
        .collect();
    Ok(Ready { dispatch, memory, outputs })
}
