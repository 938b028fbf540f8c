//! Softmax attention, and its raw scores.

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::scores::{ComponentOrder, Output, Scores, ScoresBindings, ScoresProblem, ScoresShape};
use phasor::{DType, HeadMap, Matrices, Precision, Trust, oracle};
use phasor_kit::gpu::Gpu;

use super::reference::Softmax;
use super::{D, TYPES, elements, random, tensor, wide};
use crate::{Measured, Result, bounds};

pub fn attention(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (q_heads, seq) = (2, 150);
    let (q_shape, kv_shape) = ([1, q_heads, seq, D], [1, 1, seq, D]);
    let out_shape = [1, 2 * q_heads, seq, D];
    let mut all = Vec::new();
    let caps = match gpu.capabilities() {
        // Right or wrong there: that is what is measured.
        caps if matches!(caps.matrices, Matrices::Listed { trust: Trust::Known, .. }) => {
            caps.insist_on_matrices()
        }
        caps => caps,
    };
    let tiers = [Precision::F32, Precision::F16Products, Precision::F16x3Products];
    for (precision, dtype) in tiers.iter().flat_map(|tier| TYPES.map(|dtype| (*tier, dtype))) {
        let problem = AttentionProblem {
            precision,
            q_dtype: dtype,
            kv_dtype: dtype,
            out_dtype: dtype,
            lse: true,
            ..AttentionProblem::new(HeadMap::ropepp(q_heads)?, 1, D)
        };
        let plan = match problem.plan(&caps) {
            Err(phasor::Error::NoMatrices(why)) => {
                println!("{:20}{precision}: not certified: {why}", "attention");
                continue;
            }
            plan => plan?,
        };
        let name = match precision {
            Precision::F16Products => "attention, f16",
            Precision::F16x3Products => "attention, f16 x3",
            _ => "attention",
        };
        let kernel = Attention::new(&gpu.device, &plan)?;
        let [q, k, v] =
            [(q_shape, 1), (kv_shape, 2), (kv_shape, 3)].map(|(s, n)| random(s, dtype, n));
        let [q_buffer, k_buffer, v_buffer] = [&q, &k, &v].map(|x| gpu.upload(x, dtype));
        let out = gpu.output(elements(out_shape), dtype);
        let lse = gpu.output(elements(out_shape) / D as usize, DType::F32);
        let mut bindings = AttentionBindings::new(
            tensor(&q_buffer, dtype, q_shape)?,
            tensor(&k_buffer, dtype, kv_shape)?,
            tensor(&v_buffer, dtype, kv_shape)?,
            tensor(&out, dtype, out_shape)?,
        );
        bindings.lse = Some(lse.as_entire_buffer_binding());
        let call = kernel.bind(&gpu.device, &AttentionShape::new(1, seq, seq), &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let reference = Softmax {
            q: &q,
            k: &k,
            v: &v,
            q_heads,
            seq_q: seq,
            seq_k: seq,
            steps: seq.div_ceil(plan.tile().block_k()) as usize,
            parts: 1,
            read_error: 0.0,
            out: dtype,
            precision,
        };
        let reference = reference.reference()?;
        let got = gpu.download(&out, dtype);
        all.push(Measured::new(
            name,
            dtype,
            Some(dtype),
            &got,
            &reference.truth.out,
            &reference.out,
        )?);
        let got = gpu.download(&lse, DType::F32);
        let storage = format!("{dtype}, log-sum-exp");
        all.push(Measured::new(
            name,
            storage,
            Some(DType::F32),
            &got,
            &reference.truth.lse,
            &reference.lse,
        )?);
    }
    Ok(all)
}

pub fn scores(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (q_heads, seq) = (2, 70);
    let (q_shape, k_shape) = ([1, q_heads, seq, D], [1, 1, seq, D]);
    let mut all = Vec::new();
    for dtype in TYPES {
        let problem = ScoresProblem {
            q_dtype: dtype,
            k_dtype: dtype,
            causal: false,
            output: Output::Scores(ComponentOrder::Planes),
            ..ScoresProblem::new(q_heads, 1, D)
        };
        let kernel = Scores::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
        let shape = ScoresShape::new(1, seq, seq);
        let [q, k] = [(q_shape, 1), (k_shape, 2)].map(|(s, n)| random(s, dtype, n));
        let [q_buffer, k_buffer] = [&q, &k].map(|x| gpu.upload(x, dtype));
        let out = gpu.output(kernel.plan().output_bytes(&shape) as usize / 4, DType::F32);
        let bindings = ScoresBindings {
            q: tensor(&q_buffer, dtype, q_shape)?,
            k: tensor(&k_buffer, dtype, k_shape)?,
            out: out.as_entire_buffer_binding(),
            lse: None,
        };
        let call = kernel.bind(&gpu.device, &shape, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let rows = Softmax {
            q: &q,
            k: &k,
            v: &k,
            q_heads,
            seq_q: seq,
            seq_k: seq,
            steps: 0,
            parts: 1,
            read_error: 0.0,
            out: DType::F32,
            precision: Precision::F32,
        };
        let heads = HeadMap::ropepp(q_heads)?;
        let [q, k] = [&q, &k].map(|x| wide(x));
        let scores = oracle::scores(&rows.inputs(&q, &k, &k, &heads))?;
        let sums = rows.sums(&q, &k, &k, &heads)?;
        let scale = f64::from(problem.softmax_scale);
        let (mut truth, mut bound) = (Vec::new(), Vec::new());
        let plane = (seq * seq) as usize;
        for head in 0..q_heads as usize {
            let range = head * plane..(head + 1) * plane;
            for (scores, sums) in [(&scores.0, &sums.0), (&scores.1, &sums.1)] {
                truth.extend(scores[range.clone()].iter().map(|s| s * scale));
                bound.extend(
                    sums[range.clone()]
                        .iter()
                        .map(|sum| bounds::stored(DType::F32, 0.0, bounds::score(D, sum * scale))),
                );
            }
        }
        let got = gpu.download(&out, DType::F32);
        all.push(Measured::new("scores", dtype, Some(DType::F32), &got, &truth, &bound)?);
    }
    Ok(all)
}
