//! RoPE and attention on the adapter at hand: `cargo bench`. Before anything is timed, the fused
//! pass is compared with the two passes that it replaces.
//!
//! A sample is a submission and the wait for it, so it contains the cost of both; on a software
//! adapter the figures say nothing about GPUs.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::{DType, Dispatch, HeadMap, Layout, Result, Tensor, wgpu};
use phasor_kit::gpu::Gpu;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

const HEADS: u32 = 8;

/// Tensors of one attention problem, `[1, HEADS, seq, dim]` each.
struct Inputs {
    gpu: Gpu,
    seq: u32,
    dim: u32,
    tensors: [wgpu::Buffer; 3],
}

impl Inputs {
    fn new(seq: u32, dim: u32) -> Self {
        let gpu = Gpu::new().expect("a GPU adapter");
        let mut rng = SmallRng::seed_from_u64(1);
        let len = (HEADS * seq * dim) as usize;
        let tensors = [(); 3].map(|()| {
            let data: Vec<f32> = (0..len).map(|_| rng.random_range(-1.0..1.0)).collect();
            gpu.upload(&data, DType::F32)
        });
        Self { gpu, seq, dim, tensors }
    }

    fn layout(&self, heads: u32) -> Result<Layout> {
        Layout::bhsd([1, heads, self.seq, self.dim])
    }

    /// The call, its output, and the operations that its result needs.
    fn attention(&self, heads: HeadMap) -> Result<(Dispatch, wgpu::Buffer, u64)> {
        let heads_out = heads.heads().len() as u32;
        let device = &self.gpu.device;
        let plan = AttentionProblem::new(heads, HEADS, self.dim).plan(&self.gpu.capabilities())?;
        let out = self.gpu.output((heads_out * self.seq * self.dim) as usize, DType::F32);
        let [q, k, v] = &self.tensors;
        let input = self.layout(HEADS)?;
        let bindings = AttentionBindings::new(
            Tensor::new(q, DType::F32, input),
            Tensor::new(k, DType::F32, input),
            Tensor::new(v, DType::F32, input),
            Tensor::new(&out, DType::F32, self.layout(heads_out)?),
        );
        let shape = AttentionShape::new(1, self.seq, self.seq);
        let call = Attention::new(device, &plan)?.bind(device, &shape, &bindings)?;
        Ok((call, out, plan.cost(&shape).flops))
    }

    fn run(&self, calls: &[&Dispatch]) {
        self.gpu.run(|encoder| calls.iter().for_each(|call| call.encode(encoder)));
    }
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("causal attention, 8 heads, f32");
    group.sample_size(10);
    for (seq, dim) in [(1024, 64), (1024, 128)] {
        let inputs = Inputs::new(seq, dim);
        let pass = |map: Result<HeadMap>| {
            map.and_then(|map| inputs.attention(map)).expect("a plan for these sizes")
        };
        let (real, real_out, flops) = pass(HeadMap::plain(HEADS));
        let (imaginary, imaginary_out, _) = pass(HeadMap::imago(HEADS));
        let (fused, fused_out, both_flops) = pass(HeadMap::ropepp(HEADS));

        inputs.run(&[&real, &imaginary, &fused]);
        let [re, im, both] = [&real_out, &imaginary_out, &fused_out]
            .map(|buffer| inputs.gpu.download(buffer, DType::F32));
        let head = (seq * dim) as usize;
        let single = re.chunks(head).zip(im.chunks(head)).flat_map(|(re, im)| [re, im]);
        for (fused, single) in both.chunks(head).zip(single) {
            for (a, b) in fused.iter().zip(single) {
                assert!((a - b).abs() <= 2e-6, "fused {a} and single {b} disagree");
            }
        }

        let sizes = format!("S {seq}, D {dim}");
        let mut time = |name, calls: &[&Dispatch], flops| {
            group.throughput(Throughput::Elements(flops));
            group.bench_function(BenchmarkId::new(name, &sizes), |b| b.iter(|| inputs.run(calls)));
        };
        time("real", &[&real], flops);
        time("real and imaginary, two passes", &[&real, &imaginary], both_flops);
        time("real and imaginary, one pass", &[&fused], both_flops);
    }
    group.finish();
}

fn rope(c: &mut Criterion) {
    let mut group = c.benchmark_group("rope, 8 + 8 heads, f32");
    for (seq, dim) in [(4096, 64), (4096, 128)] {
        let inputs = Inputs::new(seq, dim);
        let make = || -> Result<(Dispatch, u64)> {
            let device = &inputs.gpu.device;
            let plan = RopeProblem { in_place: true, ..RopeProblem::new(HEADS, HEADS, dim) }
                .plan(&inputs.gpu.capabilities())?;
            let table = RopeConfig::new(dim, 1e4).table(seq, seq.into())?;
            let bytes = inputs.gpu.upload_bytes(table.as_bytes());
            let layout = inputs.layout(HEADS)?;
            let [q, k, _] = &inputs.tensors;
            let bindings = RopeBindings {
                q: Tensor::new(q, DType::F32, layout),
                k: Some(Tensor::new(k, DType::F32, layout)),
                q_out: None,
                k_out: None,
                rotation: Rotation::new(
                    CosSin { binding: bytes.as_entire_buffer_binding(), shape: table.shape()? },
                    Positions::From(0),
                ),
            };
            let shape = RopeShape { batch: 1, seq };
            let call = Rope::new(device, &plan)?.bind(device, &shape, &bindings)?;
            Ok((call, plan.cost(&shape).bytes))
        };
        let (call, bytes) = make().expect("a plan for these sizes");
        group.throughput(Throughput::Bytes(bytes));
        let sizes = format!("S {seq}, D {dim}");
        group.bench_function(BenchmarkId::new("in place", sizes), |b| {
            b.iter(|| inputs.run(black_box(&[&call])));
        });
    }
    group.finish();
}

criterion_group!(kernels, attention, rope);
criterion_main!(kernels);
