//! The probe of linear attention.

use super::inputs::{Turn, numbers, wide};
use super::memory::Contents;
use super::probes::{Expected, Ready};
use crate::gpu::{Positions, Rotation};
use crate::linear_attention::{LinearAttention, LinearAttentionBindings};
use crate::oracle::{self, LinearInputs, Real};
use crate::plan::linear_attention::{LinearAttentionProblem, LinearAttentionShape};
use crate::rotary::Pairing;
use crate::{Capabilities, DType, HeadMap, Layout, Result};

/// Causal, over more than a chunk.
pub(super) fn linear(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
    const ROWS: u32 = 80;
    let shape = [1, 1, ROWS, 64];
    let heads = HeadMap::plain(1)?;
    let x = [1, 2, 3].map(|seed| numbers(ROWS * 64, seed));
    let turn = Turn::new()?;
    fn attended<R: Real>(turn: &Turn, x: &[Vec<f32>; 3], heads: &HeadMap) -> Result<Vec<R>> {
        let shape = [1, 1, ROWS, 64];
        let [q, k, v] = x.each_ref().map(|x| wide::<R>(x));
        let (q, k) = (oracle::elu_plus_one(&q), oracle::elu_plus_one(&k));
        oracle::linear_attention(&LinearInputs {
            q: &q,
            q_rotated: &turn.apply(&q, shape, 0)?,
            q_shape: shape,
            k: &k,
            k_rotated: &turn.apply(&k, shape, 0)?,
            k_shape: shape,
            v: &v,
            v_shape: shape,
            rotary_dim: 64,
            pairing: Pairing::Half,
            heads: heads.heads(),
            causal: true,
        })
    }
    let (truth, naive) = (attended::<f64>(&turn, &x, &heads)?, attended::<f32>(&turn, &x, &heads)?);
    let plan = LinearAttentionProblem::new(heads, 1, 64).plan(caps)?;
    let kernel = LinearAttention::new(device, &plan)?;
    let call = LinearAttentionShape::new(1, ROWS);
    let mut contents = Contents::new(caps);
    let workspace = contents.scratch(plan.workspace_bytes(&call));
    let [q, k, v] = x.map(|x| contents.numbers(&x, DType::F32));
    let (out, table) = (contents.output(naive.len(), DType::F32), turn.write(&mut contents));
    let memory = contents.upload(device);
    let layout = Layout::bhsd(shape)?;
    let tensor = |slot| memory.tensor(slot, DType::F32, layout);
    let bindings = LinearAttentionBindings {
        q: tensor(q),
        k: tensor(k),
        v: tensor(v),
        out: tensor(out),
        workspace: memory.at(workspace),
        rotation: Some(Rotation::new(turn.bind(&memory, table)?, Positions::From(0))),
        q_positions: None,
        state: None,
        random: None,
    };
    let dispatch = kernel.bind(device, &call, &bindings)?;
    Ok(Ready {
        dispatch,
        memory,
        outputs: vec![(out, Expected::new("out", DType::F32, truth, &naive))],
    })
}
