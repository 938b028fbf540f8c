//! The gradients of linear attention, from an output that is right but for its storage.

use phasor::linear_attention::{LinearAttentionProblem, LinearAttentionShape};
use phasor::linear_attention_backward::{
    LinearAttentionBackward, LinearAttentionBackwardBindings, LinearAttentionBackwardProblem,
};
use phasor::oracle::{self, LinearInputs};
use phasor::rotary::{CosSin, Pairing, Positions, Rotation};
use phasor::{DType, HeadMap};
use phasor_kit::{gpu::Gpu, tolerance};

use super::{D, TYPES, elements, frequencies, random, tensor, wide};
use crate::bounds::{self, U, gamma};
use crate::{Measured, Result};

const HEADS: u32 = 2;
const SEQ: u32 = 100;
const SHAPE: [u32; 4] = [1, HEADS, SEQ, D];

pub fn linear(gpu: &Gpu) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for dtype in TYPES {
        let case = Case::new(dtype)?;
        let (got, bounds) = (case.run(gpu)?, case.bounds());
        for (n, of) in ["dq", "dk", "dv"].into_iter().enumerate() {
            let (kernel, storage) = ("linear backward", format!("{dtype}, {of}"));
            let truth = &case.truth[n];
            all.push(Measured::new(kernel, storage, None, &got[n], truth, &bounds[n])?);
        }
    }
    Ok(all)
}

/// One causal call with rotations.
struct Case {
    dtype: DType,
    /// q, k, v, d_out, as they are stored.
    data: [Vec<f32>; 4],
    out: Vec<f64>,
    truth: [Vec<f64>; 3],
}

impl Case {
    fn new(dtype: DType) -> Result<Self> {
        let data = [1, 2, 3, 4].map(|seed| random(SHAPE, dtype, seed));
        let frequencies = frequencies()?;
        let turn = |_, s, pair| frequencies.cos_sin(s, pair as usize);
        let [q, k, v, d_out] = data.each_ref().map(|x| wide(x));
        let slopes = [&q, &k].map(|x| oracle::elu_plus_one_slope(x));
        let (q, k) = (oracle::elu_plus_one(&q), oracle::elu_plus_one(&k));
        let map = HeadMap::plain(HEADS)?;
        let inputs = LinearInputs {
            q_rotated: &oracle::rope(&q, SHAPE, D, Pairing::Half, turn)?,
            q: &q,
            q_shape: SHAPE,
            k_rotated: &oracle::rope(&k, SHAPE, D, Pairing::Half, turn)?,
            k: &k,
            k_shape: SHAPE,
            v: &v,
            v_shape: SHAPE,
            rotary_dim: D,
            pairing: Pairing::Half,
            heads: map.heads(),
            causal: true,
        };
        let all = oracle::linear_attention_backward(&inputs, &d_out)?;
        let owed = |rotated: &[f64], plain: &[f64], slopes: &[f64]| -> Result<Vec<f64>> {
            let back = oracle::unrope(rotated, SHAPE, D, Pairing::Half, turn)?;
            Ok(back.iter().zip(plain).zip(slopes).map(|((a, b), slope)| (a + b) * slope).collect())
        };
        let dq = owed(&all.d_q_rotated, &all.d_q, &slopes[0])?;
        let dk = owed(&all.d_k_rotated, &all.d_k, &slopes[1])?;
        let out = oracle::linear_attention(&inputs)?;
        Ok(Self { dtype, data, out, truth: [dq, dk, all.dv] })
    }

    /// The output as the forward pass would store it.
    fn out(&self) -> Vec<f32> {
        let out: Vec<f32> = self.out.iter().map(|&x| x as f32).collect();
        tolerance::stored(&out, self.dtype)
    }

    fn run(&self, gpu: &Gpu) -> Result<[Vec<f32>; 3]> {
        let dtype = self.dtype;
        let problem = LinearAttentionProblem {
            q_dtype: dtype,
            kv_dtype: dtype,
            out_dtype: dtype,
            ..LinearAttentionProblem::new(HeadMap::plain(HEADS)?, HEADS, D)
        };
        let plan = LinearAttentionBackwardProblem::new(problem).plan(&gpu.capabilities())?;
        let kernel = LinearAttentionBackward::new(&gpu.device, &plan)?;
        let sizes = LinearAttentionShape::new(1, SEQ);
        let table = frequencies()?.table(SEQ)?;
        let (table_buffer, table_shape) = (gpu.upload_bytes(table.as_bytes()), table.shape()?);
        let [q, k, v, d_out] = self.data.each_ref().map(|x| gpu.upload(x, dtype));
        let out = gpu.upload(&self.out(), dtype);
        let gradients = [(); 3].map(|()| gpu.output(elements(SHAPE), DType::F32));
        let workspace = gpu.output(plan.workspace_bytes(&sizes) as usize / 4, DType::F32);
        let [dq, dk, dv] = &gradients;
        let mut bindings = LinearAttentionBackwardBindings::new(
            [tensor(&q, dtype, SHAPE)?, tensor(&k, dtype, SHAPE)?, tensor(&v, dtype, SHAPE)?],
            tensor(&out, dtype, SHAPE)?,
            tensor(&d_out, dtype, SHAPE)?,
            [
                tensor(dq, DType::F32, SHAPE)?,
                tensor(dk, DType::F32, SHAPE)?,
                tensor(dv, DType::F32, SHAPE)?,
            ],
            workspace.as_entire_buffer_binding(),
        );
        bindings.rotation = Some(Rotation::new(
            CosSin { binding: table_buffer.as_entire_buffer_binding(), shape: table_shape },
            Positions::From(0),
        ));
        let call = kernel.bind(&gpu.device, &sizes, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        Ok(gradients.map(|buffer| gpu.download(&buffer, DType::F32)))
    }

    /// Of dq, dk and dv, as `phasor::numerics` derives them.
    fn bounds(&self) -> [Vec<f64>; 3] {
        let [raw_q, raw_k, v, d_out] = self.data.each_ref().map(|x| wide(x));
        let (q, k) = (oracle::elu_plus_one(&raw_q), oracle::elu_plus_one(&raw_k));
        let stored = wide(&self.out());
        let (seq, d) = (SEQ as usize, D as usize);
        // Features of at most e², four of them in a term, the derivative among them.
        let relative = gamma(2 * (d + seq) + 64) + 4.0 * bounds::exp_error(2.0) + 48.0 * U;
        let row = |x: &[f64], n: usize| x[n * d..][..d].to_vec();
        // Features are positive: either member of a turned pair is at most their sum.
        let turned = |x: &[f64]| -> Vec<f64> {
            (0..d).map(|c| x[c % (d / 2)] + x[c % (d / 2) + d / 2]).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
        let mut all = [(); 3].map(|()| vec![0.0; q.len()]);
        for i in 0..HEADS as usize * seq {
            let first = i / seq * seq;
            let (query, d_out) = (row(&q, i), row(&d_out, i));
            let below: f64 = (first..=i).map(|j| dot(&query, &row(&k, j))).sum();
            let e: Vec<f64> = d_out.iter().map(|x| x.abs() / below).collect();
            let r = dot(&e, &row(&self.out, i));
            let off: Vec<f64> =
                row(&stored, i).iter().zip(row(&self.out, i)).map(|(got, out)| got - out).collect();
            // What is owed to a feature by the denominator: r, and the output as it is stored.
            let plain = relative * r + (1.0 + relative) * dot(&e, &off);
            let turned_query = turned(&query);
            for j in first..=i {
                let key = row(&k, j);
                let turned_key = turned(&key);
                let passed = 2.0 * relative * dot(&e, &row(&v, j));
                let weight = relative * dot(&turned_query, &turned_key) / 2.0;
                for c in 0..d {
                    all[0][i * d + c] += passed * turned_key[c] + plain * key[c];
                    all[1][j * d + c] += passed * turned_query[c] + plain * query[c];
                    all[2][j * d + c] += weight * e[c];
                }
            }
        }
        let slopes = [&raw_q, &raw_k].map(|x| oracle::elu_plus_one_slope(x));
        for (bound, slopes) in all.iter_mut().zip(&slopes) {
            bound.iter_mut().zip(slopes).for_each(|(bound, slope)| *bound *= slope);
        }
        all.map(|bound| bound.into_iter().map(|b| bounds::stored(DType::F32, 0.0, b)).collect())
    }
}
