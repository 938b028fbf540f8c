//! Linear attention.

use phasor::linear_attention::{
    LinearAttention, LinearAttentionBindings, LinearAttentionProblem, LinearAttentionShape,
};
use phasor::oracle::LinearInputs;
use phasor::rotary::{CosSin, Pairing, Positions, Rotation};
use phasor::{DType, HeadMap, oracle};
use phasor_kit::gpu::Gpu;

use super::{D, TYPES, elements, frequencies, random, tensor, wide};
use crate::{
    Measured, Result,
    bounds::{self, U, gamma},
};

pub fn linear(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (heads, seq) = (2, 100);
    let shape = [1, heads, seq, D];
    let table = frequencies()?.table(seq)?;
    let (table_buffer, table_shape) = (gpu.upload_bytes(table.as_bytes()), table.shape()?);
    let frequencies = frequencies()?;
    let mut all = Vec::new();
    for dtype in TYPES {
        let problem = LinearAttentionProblem {
            q_dtype: dtype,
            kv_dtype: dtype,
            out_dtype: dtype,
            ..LinearAttentionProblem::new(HeadMap::plain(heads)?, heads, D)
        };
        let plan = problem.plan(&gpu.capabilities())?;
        let kernel = LinearAttention::new(&gpu.device, &plan)?;
        let sizes = LinearAttentionShape::new(1, seq);
        let data = [1, 2, 3].map(|seed| random(shape, dtype, seed));
        let [q, k, v] = data.each_ref().map(|x| gpu.upload(x, dtype));
        let out = gpu.output(elements(shape), dtype);
        let workspace = gpu.output(plan.workspace_bytes(&sizes) as usize / 4, DType::F32);
        let bindings = LinearAttentionBindings {
            q: tensor(&q, dtype, shape)?,
            k: tensor(&k, dtype, shape)?,
            v: tensor(&v, dtype, shape)?,
            out: tensor(&out, dtype, shape)?,
            workspace: workspace.as_entire_buffer_binding(),
            rotation: Some(Rotation::new(
                CosSin { binding: table_buffer.as_entire_buffer_binding(), shape: table_shape },
                Positions::From(0),
            )),
            q_positions: None,
            state: None,
            random: None,
        };
        let call = kernel.bind(&gpu.device, &sizes, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));

        let [q, k, v] = data.each_ref().map(|x| wide(x));
        let (q, k) = (oracle::elu_plus_one(&q), oracle::elu_plus_one(&k));
        let turn = |_, s, pair| frequencies.cos_sin(s, pair as usize);
        let map = HeadMap::plain(heads)?;
        let truth = oracle::linear_attention(&LinearInputs {
            q_rotated: &oracle::rope(&q, shape, D, Pairing::Half, turn)?,
            q: &q,
            q_shape: shape,
            k_rotated: &oracle::rope(&k, shape, D, Pairing::Half, turn)?,
            k: &k,
            k_shape: shape,
            v: &v,
            v_shape: shape,
            rotary_dim: D,
            pairing: Pairing::Half,
            heads: map.heads(),
            causal: true,
        })?;
        let bound = linear_bound(dtype, [&q, &k, &v], &truth, heads, seq);
        let got = gpu.download(&out, dtype);
        all.push(Measured::new("linear attention", dtype, Some(dtype), &got, &truth, &bound)?);
    }
    Ok(all)
}

/// Of causal linear attention; features are given before the rotation.
fn linear_bound(
    dtype: DType,
    [q, k, v]: [&[f64]; 3],
    truth: &[f64],
    heads: u32,
    seq: u32,
) -> Vec<f64> {
    let (seq, d) = (seq as usize, D as usize);
    let half = d / 2;
    // Features of at most e², and the rotation of both sides.
    let relative = gamma(d + seq + 64) + 2.0 * bounds::exp_error(2.0) + 16.0 * U;
    let mut bound = Vec::new();
    for head in 0..heads as usize {
        for i in 0..seq {
            let query = &q[(head * seq + i) * d..][..d];
            let (mut above, mut below) = (vec![0.0; d], 0.0);
            for j in 0..=i {
                let key = &k[(head * seq + j) * d..][..d];
                let (mut most, mut plain) = (0.0, 0.0);
                let (first, second) = (query.split_at(half), key.split_at(half));
                let pairs = first.0.iter().zip(first.1).zip(second.0.iter().zip(second.1));
                for ((a, b), (c, e)) in pairs {
                    most += (a + b) * (c + e);
                    plain += a * c + b * e;
                }
                below += plain;
                let value = &v[(head * seq + j) * d..][..d];
                above.iter_mut().zip(value).for_each(|(sum, v)| *sum += most * v.abs());
            }
            for above in &above {
                let out = truth[bound.len()];
                let b = (above + out.abs() * below) * relative / below + 8.0 * U * out.abs();
                bound.push(bounds::stored(dtype, out, b));
            }
        }
    }
    bound
}
