//! The probe of attention's gradients.

use super::attention::attention_inputs;
use super::inputs::{Turn, numbers, wide};
use super::memory::Contents;
use super::probes::{Expected, Ready};
use crate::attention_backward::{AttentionBackward, AttentionBackwardBindings, BackwardRotation};
use crate::gpu::Positions;
use crate::oracle::{self, AttentionGradients, Place, Real, Upstream};
use crate::plan::attention::{AttentionProblem, AttentionShape};
use crate::plan::attention_backward::{AttentionBackwardProblem, Side};
use crate::rotary::Pairing;
use crate::{Capabilities, DType, HeadMap, Layout, Result};

const DIM: u32 = 64;

/// Results of the forward pass, and gradients with respect to un-rotated vectors.
fn gradients<R: Real>(
    [q, k, v, d_out]: [&[f32]; 4],
    sizes: [u32; 2],
    heads: &HeadMap,
    turn: &Turn,
) -> Result<(oracle::Attended<R>, AttentionGradients<R>)> {
    let [q, k, v, d_out] = [q, k, v, d_out].map(wide::<R>);
    let inputs = attention_inputs([&q, &k, &v], sizes, DIM, heads);
    let upstream = Upstream { d_out: &d_out, d_lse: None };
    let plain = |_: Place, score: R| Some((score, R::from_f64(1.0)));
    let mut all = oracle::attention_backward(&inputs, &upstream, &plain, None)?;
    let back = |x: &[R], shape| {
        oracle::unrope(x, shape, DIM, Pairing::Half, |_, s, pair| {
            let (cos, sin) = turn.frequencies.cos_sin(s, pair as usize);
            (R::from_f64(cos), R::from_f64(sin))
        })
    };
    (all.dq, all.dk) = (back(&all.dq, inputs.q_shape)?, back(&all.dk, inputs.k_shape)?);
    Ok((oracle::attention(&inputs)?, all))
}

/// Both streams past the end of a tile both ways, turned back.
pub(super) fn backward(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
    let heads = HeadMap::ropepp(2)?;
    let forward = AttentionProblem::new(heads.clone(), 1, DIM);
    let problem =
        AttentionBackwardProblem { unrotate: true, ..AttentionBackwardProblem::new(forward) };
    let plan = problem.plan(caps)?;
    let rows = plan.tile(Side::Queries).own_rows() + 3;
    let keys = rows + 5;
    let turn = Turn::new()?;
    let [q, k, v] = [(2 * rows, 1), (keys, 2), (keys, 3)].map(|(n, seed)| numbers(n * DIM, seed));
    let d_out = numbers(4 * rows * DIM, 4);
    let x = [&q[..], &k, &v, &d_out];
    let (attended, truth) = gradients::<f64>(x, [rows, keys], &heads, &turn)?;
    let (_, naive) = gradients::<f32>(x, [rows, keys], &heads, &turn)?;
    let narrow = |x: &[f64]| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
    let mut contents = Contents::new(caps);
    let mut up = |x: &[f32]| contents.numbers(x, DType::F32);
    let (out, lse) = (up(&narrow(&attended.out)), up(&narrow(&attended.lse)));
    let [q, k, v, d_out] = x.map(&mut up);
    let [dq, dk, dv] =
        [&truth.dq, &truth.dk, &truth.dv].map(|x| contents.output(x.len(), DType::F32));
    let shape = AttentionShape::new(1, rows, keys);
    let workspace = contents.scratch(plan.workspace_bytes(&shape, rows));
    let table = turn.write(&mut contents);
    let memory = contents.upload(device);
    let layout = |heads, rows| Layout::bhsd([1, heads, rows, DIM]);
    let (of_q, of_k, of_out) = (layout(2, rows)?, layout(1, keys)?, layout(4, rows)?);
    let tensor = |slot, layout| memory.tensor(slot, DType::F32, layout);
    let mut bindings = AttentionBackwardBindings::new(
        [tensor(q, of_q), tensor(k, of_k), tensor(v, of_k)],
        (tensor(out, of_out), memory.at(lse)),
        tensor(d_out, of_out),
        [tensor(dq, of_q), tensor(dk, of_k), tensor(dv, of_k)],
        memory.at(workspace),
    );
    bindings.rotation = Some(BackwardRotation {
        table: turn.bind(&memory, table)?,
        q_positions: Positions::From(0),
        k_positions: Positions::From(0),
    });
    let dispatch = AttentionBackward::new(device, &plan)?.bind(device, &shape, &bindings)?;
    let expect =
        |what, truth: Vec<f64>, naive: &[f32]| Expected::new(what, DType::F32, truth, naive);
    let outputs = vec![
        (dq, expect("dq", truth.dq, &naive.dq)),
        (dk, expect("dk", truth.dk, &naive.dk)),
        (dv, expect("dv", truth.dv, &naive.dv)),
    ];
    Ok(Ready { dispatch, memory, outputs })
}
