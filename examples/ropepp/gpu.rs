//! The layer on the GPU: rotation, plain attention, both components as two passes and as one.

use std::time::{Duration, Instant};

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::{DType, Dispatch, HeadMap, Layout, Tensor, oracle, wgpu};
use phasor_kit::gpu::Gpu;

use crate::{Result, layer::Layer, progress, rotated::Rotated};

/// What the GPU computed, and how long it took.
pub struct Run {
    /// Name, backend and driver.
    pub adapter: String,
    /// The plans as they print themselves.
    pub plans: Vec<String>,
    /// Rotated queries `[B, Hq, S, D]`.
    pub q: Vec<f32>,
    /// Rotated keys `[B, Hkv, S, D]`.
    pub k: Vec<f32>,
    /// Plain RoPE attention, a head for every query head.
    pub plain: oracle::Attended<f32>,
    /// RoPE++ EC from one pass, heads re0, im0, re1, im1, …
    pub fused: oracle::Attended<f32>,
    pub times: Times,
}

/// Time a run, median of several samples after a warm-up.
pub struct Times {
    /// Queries and keys in one dispatch.
    pub rope: Duration,
    /// The real component alone.
    pub plain: Duration,
    /// The real and then the imaginary component, each in a pass of its own.
    pub two_passes: Duration,
    /// Both from one pass over K and V.
    pub fused: Duration,
}

pub fn run(layer: &Layer) -> Result<Run> {
    let gpu = Gpu::new()?;
    let rotated = Rotated::new(&gpu, layer)?;
    gpu.run(|encoder| rotated.dispatch.encode(encoder));

    let plain = Pass::new(&gpu, layer, &rotated, HeadMap::plain(layer.q_heads())?)?;
    let imaginary = Pass::new(&gpu, layer, &rotated, HeadMap::imago(layer.q_heads())?)?;
    let fused = Pass::new(&gpu, layer, &rotated, HeadMap::ropepp(layer.q_heads())?)?;
    let [rope, plain_time, two_passes, fused_time] = median_times(
        &gpu,
        [
            &[&rotated.dispatch],
            &[&plain.dispatch],
            &[&plain.dispatch, &imaginary.dispatch],
            &[&fused.dispatch],
        ],
    )?;
    Ok(Run {
        times: Times { rope, plain: plain_time, two_passes, fused: fused_time },
        adapter: gpu.capabilities().adapter,
        plans: vec![rotated.plan.clone(), plain.plan.clone(), fused.plan.clone()],
        q: gpu.download(&rotated.q, DType::F32),
        k: gpu.download(&rotated.k, DType::F32),
        plain: plain.download(&gpu),
        fused: fused.download(&gpu),
    })
}

/// One attention pass, bound to its own outputs.
struct Pass {
    plan: String,
    dispatch: Dispatch,
    out: wgpu::Buffer,
    lse: wgpu::Buffer,
}

impl Pass {
    fn new(gpu: &Gpu, layer: &Layer, rotated: &Rotated, heads: HeadMap) -> Result<Self> {
        let [batch, _, seq, _] = layer.q_shape;
        let out_shape = [batch, heads.heads().len() as u32, seq, layer.v_shape[3]];
        let problem = AttentionProblem {
            value_dim: layer.v_shape[3],
            pairing: layer.pairing,
            lse: true,
            ..AttentionProblem::new(heads, layer.kv_heads(), layer.head_dim())
        };
        let shape = AttentionShape::new(batch, seq, seq);
        let plan = problem.plan(&gpu.capabilities())?;
        let kernel = Attention::new(&gpu.device, &plan)?;

        let tensor = |buffer, shape| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let [b, h, s, d] = out_shape.map(|n| n as usize);
        let out = gpu.output(b * h * s * d, DType::F32);
        let lse = gpu.output(b * h * s, DType::F32);
        let bindings = AttentionBindings {
            lse: Some(lse.as_entire_buffer_binding()),
            ..AttentionBindings::new(
                tensor(&rotated.q, layer.q_shape)?,
                tensor(&rotated.k, layer.k_shape)?,
                tensor(&rotated.v, layer.v_shape)?,
                tensor(&out, out_shape)?,
            )
        };
        let dispatch = kernel.bind(&gpu.device, &shape, &bindings)?;
        Ok(Pass { plan: format!("{plan}\n  {}", plan.cost(&shape)), dispatch, out, lse })
    }

    fn download(&self, gpu: &Gpu) -> oracle::Attended<f32> {
        oracle::Attended {
            out: gpu.download(&self.out, DType::F32),
            lse: gpu.download(&self.lse, DType::F32),
        }
    }
}

const ROUNDS: u32 = 7;
/// So much work goes into a submission that submitting and waiting hardly count.
const SAMPLE: Duration = Duration::from_millis(50);

/// Median times of running each of these lists of dispatches once, from submission to completion.
/// The lists take turns, so that a change in the machine's load meets all of them alike.
fn median_times<const N: usize>(gpu: &Gpu, lists: [&[&Dispatch]; N]) -> Result<[Duration; N]> {
    let sample = |list: &[&Dispatch], runs: u32| {
        let start = Instant::now();
        gpu.run(|encoder| {
            for _ in 0..runs {
                list.iter().for_each(|dispatch| dispatch.encode(encoder));
            }
        });
        start.elapsed() / runs
    };
    let bar = progress::bar("compiling and timing on the GPU", N as u32 + ROUNDS)?;
    let runs = lists.map(|list| {
        sample(list, 1); // compiles, on software adapters
        bar.inc(1);
        (SAMPLE.as_secs_f64() / sample(list, 1).as_secs_f64()).clamp(1.0, 200.0) as u32
    });
    let mut times = [(); N].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for ((times, list), runs) in times.iter_mut().zip(lists).zip(runs) {
            times.push(sample(list, runs));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    }))
}
