//! The layer on the GPU: rotation, plain attention, both components as two passes and as one.

use std::time::{Duration, Instant};

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, Rotation};
use phasor::{Capabilities, DType, Dispatch, HeadMap, Layout, Tensor, oracle, wgpu};

use crate::{Result, device::Gpu, layer::Layer};

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
    gpu.run(|encoder| rotated.dispatch.encode(encoder))?;

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
        adapter: Capabilities::of(&gpu.device).adapter,
        plans: vec![rotated.plan.clone(), plain.plan.clone(), fused.plan.clone()],
        q: gpu.download(&rotated.q)?,
        k: gpu.download(&rotated.k)?,
        plain: plain.download(&gpu)?,
        fused: fused.download(&gpu)?,
    })
}

/// Queries and keys on the device, rotated when the dispatch has run.
struct Rotated {
    plan: String,
    /// `[B, Hq, S, D]`.
    q: wgpu::Buffer,
    /// `[B, Hkv, S, D]`.
    k: wgpu::Buffer,
    /// `[B, Hkv, S, Dv]`.
    v: wgpu::Buffer,
    dispatch: Dispatch,
}

impl Rotated {
    fn new(gpu: &Gpu, layer: &Layer) -> Result<Self> {
        let [batch, q_heads, seq, head_dim] = layer.q_shape;
        let problem = RopeProblem {
            pairing: layer.pairing,
            ..RopeProblem::new(q_heads, layer.kv_heads(), head_dim)
        };
        let shape = RopeShape::new(batch, seq);
        let plan = problem.plan(&Capabilities::of(&gpu.device))?;
        let kernel = Rope::new(&gpu.device, &plan)?;

        let table = layer.rope().table(seq, seq.into())?;
        let table_bytes = gpu.upload(table.as_bytes());
        let [q_in, k_in, v] =
            [&layer.q, &layer.k, &layer.v].map(|x| gpu.upload(bytemuck::cast_slice(x)));
        let (q, k) = (gpu.output(layer.q.len()), gpu.output(layer.k.len()));
        let (q_layout, k_layout) = (Layout::bhsd(layer.q_shape)?, Layout::bhsd(layer.k_shape)?);
        let bindings = RopeBindings {
            q: Tensor::new(&q_in, DType::F32, q_layout),
            k: Some(Tensor::new(&k_in, DType::F32, k_layout)),
            q_out: Some(Tensor::new(&q, DType::F32, q_layout)),
            k_out: Some(Tensor::new(&k, DType::F32, k_layout)),
            rotation: Rotation::new(
                CosSin { binding: table_bytes.as_entire_buffer_binding(), shape: table.shape()? },
                Positions::From(0),
            ),
        };
        let dispatch = kernel.bind(&gpu.device, &shape, &bindings)?;
        Ok(Rotated { plan: format!("{plan}\n  {}", plan.cost(&shape)), q, k, v, dispatch })
    }
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
        let plan = problem.plan(&Capabilities::of(&gpu.device))?;
        let kernel = Attention::new(&gpu.device, &plan)?;

        let tensor = |buffer, shape| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let [b, h, s, d] = out_shape.map(|n| n as usize);
        let out = gpu.output(b * h * s * d);
        let lse = gpu.output(b * h * s);
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

    fn download(&self, gpu: &Gpu) -> Result<oracle::Attended<f32>> {
        Ok(oracle::Attended { out: gpu.download(&self.out)?, lse: gpu.download(&self.lse)? })
    }
}

const ROUNDS: u32 = 7;
/// So much work goes into a submission that submitting and waiting hardly count.
const SAMPLE: Duration = Duration::from_millis(50);

/// Median times of running each of these lists of dispatches once, from submission to completion.
/// The lists take turns, so that a change in the machine's load meets all of them alike.
fn median_times<const N: usize>(gpu: &Gpu, lists: [&[&Dispatch]; N]) -> Result<[Duration; N]> {
    let sample = |list: &[&Dispatch], runs: u32| -> Result<Duration> {
        let start = Instant::now();
        gpu.run(|encoder| {
            for _ in 0..runs {
                list.iter().for_each(|dispatch| dispatch.encode(encoder));
            }
        })?;
        Ok(start.elapsed() / runs)
    };
    let mut runs = [0; N];
    for (runs, list) in runs.iter_mut().zip(lists) {
        sample(list, 1)?; // compiles, on software adapters
        *runs = (SAMPLE.as_secs_f64() / sample(list, 1)?.as_secs_f64()).clamp(1.0, 200.0) as u32;
    }
    let mut times = [(); N].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for ((times, list), runs) in times.iter_mut().zip(lists).zip(runs) {
            times.push(sample(list, runs)?);
        }
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    }))
}
