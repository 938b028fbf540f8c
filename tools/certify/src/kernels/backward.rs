//! The gradients of softmax attention, from an output and log-sum-exps that are right but for their
//! storage.

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::attention_backward::{
    AttentionBackward, AttentionBackwardBindings, AttentionBackwardProblem,
};
use phasor::oracle::{self, Attended, AttentionGradients, Place, Upstream};
use phasor::{DType, HeadMap, Precision};
use phasor_kit::{gpu::Gpu, tolerance};

use super::reference::Softmax;
use super::{D, TYPES, elements, random, tensor, wide};
use crate::bounds::{self, U, gamma};
use crate::{Measured, Result};

const Q_HEADS: u32 = 2;
const SEQ: u32 = 150;

pub fn attention(gpu: &Gpu) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for dtype in TYPES {
        for (name, heads) in
            [("plain", HeadMap::plain(Q_HEADS)?), ("fused", HeadMap::ropepp(Q_HEADS)?)]
        {
            let case = Case::new(heads, dtype)?;
            let got = case.run(gpu)?;
            let bounds = case.bounds()?;
            let truths = [&case.truth.dq, &case.truth.dk, &case.truth.dv];
            for (n, of) in ["dq", "dk", "dv"].into_iter().enumerate() {
                let storage = format!("{dtype}, {name} {of}");
                let kernel = "attention backward";
                all.push(Measured::new(kernel, storage, None, &got[n], truths[n], &bounds[n])?);
            }
        }
    }
    Ok(all)
}

/// One causal call over one kv head, in numbers as they are stored.
struct Case {
    heads: HeadMap,
    dtype: DType,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_out: Vec<f32>,
    attended: Attended<f64>,
    truth: AttentionGradients<f64>,
}

impl Case {
    fn new(heads: HeadMap, dtype: DType) -> Result<Self> {
        let (q_shape, kv_shape) = ([1, Q_HEADS, SEQ, D], [1, 1, SEQ, D]);
        let out_shape = [1, heads.heads().len() as u32, SEQ, D];
        let [q, k, v] =
            [(q_shape, 1), (kv_shape, 2), (kv_shape, 3)].map(|(s, n)| random(s, dtype, n));
        let d_out = random(out_shape, dtype, 4);
        let [wide_q, wide_k, wide_v] = [&q, &k, &v].map(|x| wide(x));
        let problem = softmax([&q, &k, &v], dtype);
        let inputs = problem.inputs(&wide_q, &wide_k, &wide_v, &heads);
        let upstream = Upstream { d_out: &wide(&d_out), d_lse: None };
        let unchanged = |_: Place, score: f64| Some((score, 1.0));
        let truth = oracle::attention_backward(&inputs, &upstream, &unchanged, None)?;
        let attended = oracle::attention(&inputs)?;
        Ok(Self { heads, dtype, q, k, v, d_out, attended, truth })
    }

    /// The output as the forward pass would store it.
    fn out(&self) -> Vec<f32> {
        tolerance::stored(&narrow(&self.attended.out), self.dtype)
    }

    fn run(&self, gpu: &Gpu) -> Result<[Vec<f32>; 3]> {
        let dtype = self.dtype;
        let heads_out = self.heads.heads().len() as u32;
        let shapes = [[1, Q_HEADS, SEQ, D], [1, 1, SEQ, D], [1, 1, SEQ, D]];
        let out_shape = [1, heads_out, SEQ, D];
        let forward = AttentionProblem {
            q_dtype: dtype,
            kv_dtype: dtype,
            out_dtype: dtype,
            ..AttentionProblem::new(self.heads.clone(), 1, D)
        };
        let plan = AttentionBackwardProblem::new(forward).plan(&gpu.capabilities())?;
        let kernel = AttentionBackward::new(&gpu.device, &plan)?;
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| gpu.upload(x, dtype));
        let (out, d_out) = (gpu.upload(&self.out(), dtype), gpu.upload(&self.d_out, dtype));
        let lse = gpu.upload(&narrow(&self.attended.lse), DType::F32);
        let gradients = shapes.map(|shape| gpu.output(elements(shape), DType::F32));
        let shape = AttentionShape::new(1, SEQ, SEQ);
        let scratch = gpu.output(plan.workspace_bytes(&shape, SEQ) as usize / 4, DType::F32);
        let [dq, dk, dv] = &gradients;
        let grad = |buffer, shape| tensor(buffer, DType::F32, shape);
        let bindings = AttentionBackwardBindings::new(
            [
                tensor(&q, dtype, shapes[0])?,
                tensor(&k, dtype, shapes[1])?,
                tensor(&v, dtype, shapes[2])?,
            ],
            (tensor(&out, dtype, out_shape)?, lse.as_entire_buffer_binding()),
            tensor(&d_out, dtype, out_shape)?,
            [grad(dq, shapes[0])?, grad(dk, shapes[1])?, grad(dv, shapes[2])?],
            scratch.as_entire_buffer_binding(),
        );
        let call = kernel.bind(&gpu.device, &shape, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        Ok(gradients.map(|buffer| gpu.download(&buffer, DType::F32)))
    }

    /// Of dq, dk and dv, as `phasor::numerics` derives them.
    fn bounds(&self) -> Result<[Vec<f64>; 3]> {
        let [q, k, v, d_out, out] =
            [&self.q, &self.k, &self.v, &self.d_out, &self.out()].map(|x| wide(x));
        let problem = softmax([&self.q, &self.k, &self.v], self.dtype);
        let scores = oracle::scores(&problem.inputs(&q, &k, &v, &self.heads))?;
        let sums = problem.sums(&q, &k, &v, &self.heads)?;
        let scale = f64::from(D).powf(-0.5);
        let base2 = scale * std::f64::consts::LOG2_E;
        let (seq, d) = (SEQ as usize, D as usize);
        let heads_out = self.heads.heads().len();
        let streams = heads_out / Q_HEADS as usize;
        // Each gradient adds up over the rows of the other side, those of k and v over all heads.
        let by_keys = gamma(streams * seq + 8);
        let by_queries = gamma(heads_out * seq + 8);
        let mut all = [&q, &k, &v].map(|x| vec![0.0; x.len()]);
        for head in 0..heads_out {
            let (source, imaginary) = (head / streams, head % streams == 1);
            let (scores, sums) =
                if imaginary { (&scores.1, &sums.1) } else { (&scores.0, &sums.0) };
            // The imaginary score multiplies a channel by the other one of its pair.
            let met = |c: usize| if imaginary { (c + d / 2) % d } else { c };
            for i in 0..seq {
                let row = (head * seq + i) * d;
                let of_row = row..row + d;
                let d_out = &d_out[of_row.clone()];
                // δ: its sum, and the output as it is stored.
                let product = |(a, b): (&f64, &f64)| (a * b).abs();
                let delta: f64 = d_out.iter().zip(&out[of_row.clone()]).map(product).sum();
                let off = self.attended.out[of_row.clone()].iter().zip(&out[of_row]);
                let rounded: f64 =
                    d_out.iter().zip(off).map(|(g, (truth, out))| (g * (truth - out)).abs()).sum();
                let delta_error = gamma(d + 1) * delta + rounded;
                let lse2 = self.attended.lse[head * seq + i] * std::f64::consts::LOG2_E;
                for j in 0..=i {
                    let at = (source * seq + i) * seq + j;
                    let x = scores[at] * base2 - lse2;
                    let weight = x.exp2();
                    let score_error =
                        bounds::score(D, sums[at] * base2) + 3.0 * U * lse2.abs() + U * x.abs();
                    let relative = std::f64::consts::LN_2 * score_error + bounds::exp_error(x);
                    let value = &v[j * d..][..d];
                    let dp: f64 = d_out.iter().zip(value).map(product).sum();
                    let ds = self.truth.d_scores[(head * seq + i) * seq + j].abs();
                    let ds_error = weight * (1.0 + relative) * (gamma(d + 1) * dp + delta_error)
                        + ds * (relative + 4.0 * U);
                    let (query, key) = ((source * seq + i) * d, j * d);
                    for c in 0..d {
                        all[0][query + c] +=
                            scale * (ds_error + by_keys * ds) * k[key + met(c)].abs();
                        all[1][key + c] +=
                            scale * (ds_error + by_queries * ds) * q[query + met(c)].abs();
                        all[2][key + c] += weight * (relative + by_queries) * d_out[c].abs();
                    }
                }
            }
        }
        Ok(all.map(|bound| bound.into_iter().map(|b| bounds::stored(DType::F32, 0.0, b)).collect()))
    }
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

fn softmax<'a>([q, k, v]: [&'a [f32]; 3], out: DType) -> Softmax<'a> {
    let (seq_q, seq_k) = (SEQ, SEQ);
    Softmax {
        q,
        k,
        v,
        q_heads: Q_HEADS,
        seq_q,
        seq_k,
        steps: 0,
        parts: 1,
        read_error: 0.0,
        out,
        precision: Precision::F32,
    }
}
