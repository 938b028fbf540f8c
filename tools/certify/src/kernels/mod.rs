//! The calls that are measured: small, ragged, and of the kind that models make.

mod backward;
mod cache;
mod linear;
mod linear_backward;
mod reference;
mod softmax;

use crate::{Measured, bounds};
use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Frequencies, Pairing, Positions, RopeConfig, Rotation};
use phasor::{DType, KernelKind, Layout, Tensor, oracle};
use phasor_kit::{gpu::Gpu, tolerance};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Measures one kernel with every storage that it takes.
pub type Measure = fn(&Gpu) -> crate::Result<Vec<Measured>>;

/// Every kernel, in the order of the table: what measures it, or why nothing does.
pub const ALL: [(KernelKind, Result<Measure, &str>); KernelKind::ALL.len()] = [
    (KernelKind::Rope, Ok(rope)),
    (KernelKind::Attention, Ok(softmax::attention)),
    (KernelKind::AttentionBackward, Ok(backward::attention)),
    (KernelKind::Scores, Ok(softmax::scores)),
    (KernelKind::KvAppend, Ok(cache::append)),
    (KernelKind::KvMove, Ok(cache::shift)),
    (KernelKind::Decode, Ok(cache::decode)),
    (KernelKind::Merge, Ok(cache::merge)),
    (KernelKind::LinearAttention, Ok(linear::linear)),
    (KernelKind::LinearAttentionBackward, Ok(linear_backward::linear)),
];

#[test]
fn every_kernel_has_a_row() {
    assert_eq!(KernelKind::not_once(ALL.map(|(kernel, _)| kernel)), []);
}

const TYPES: [DType; 2] = [DType::F32, DType::F16];
/// Channels of a head.
const D: u32 = 64;
/// Position of the first row: tables are exact far out as well.
const FIRST: u32 = 30_000;

fn random(shape: [u32; 4], dtype: DType, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let elements: usize = shape.iter().map(|&n| n as usize).product();
    let data: Vec<f32> = (0..elements).map(|_| rng.random_range(-2.0..=2.0)).collect();
    tolerance::stored(&data, dtype)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn elements(shape: [u32; 4]) -> usize {
    shape.iter().map(|&n| n as usize).product()
}

fn tensor<'a>(
    buffer: &'a phasor::wgpu::Buffer,
    dtype: DType,
    shape: [u32; 4],
) -> crate::Result<Tensor<'a>> {
    Ok(Tensor::new(buffer, dtype, Layout::bhsd(shape)?))
}

fn frequencies() -> crate::Result<Frequencies> {
    Ok(RopeConfig::new(D, 10_000.0).frequencies(1 << 17)?)
}

/// Rotated rows `[B, H, S, D]` from a first position on, and how far off a kernel may be.
fn rotated(x: &[f32], shape: [u32; 4], first: u32) -> crate::Result<(Vec<f64>, Vec<f64>)> {
    let frequencies = frequencies()?;
    let turn = |_, s, pair| frequencies.cos_sin(first + s, pair as usize);
    let truth = oracle::rope(&wide(x), shape, D, Pairing::Half, turn)?;
    let (row, half) = (D as usize, D as usize / 2);
    let bound = (0..truth.len()).map(|n| {
        let (start, pair) = (n / row * row, n % half);
        let (cos, sin) = frequencies.cos_sin(first + (n / row) as u32 % shape[2], pair);
        bounds::rotation(x[start + pair].into(), x[start + pair + half].into(), cos, sin)
    });
    Ok((truth, bound.collect()))
}

fn rope(gpu: &Gpu) -> crate::Result<Vec<Measured>> {
    let shape = [2, 2, 100, D];
    let table = frequencies()?.table(FIRST + 200)?;
    let (buffer, table) = (gpu.upload_bytes(table.as_bytes()), table.shape()?);
    let mut all = Vec::new();
    for dtype in TYPES {
        let problem = RopeProblem { dtype, ..RopeProblem::new(2, 0, D) };
        let kernel = Rope::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
        let x = random(shape, dtype, 1);
        let (q, out) = (gpu.upload(&x, dtype), gpu.output(x.len(), dtype));
        let bindings = RopeBindings {
            q: tensor(&q, dtype, shape)?,
            k: None,
            q_out: Some(tensor(&out, dtype, shape)?),
            k_out: None,
            rotation: Rotation::new(
                CosSin { binding: buffer.as_entire_buffer_binding(), shape: table },
                Positions::From(FIRST),
            ),
        };
        let call = kernel.bind(&gpu.device, &RopeShape { batch: 2, seq: 100 }, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let (truth, bound) = rotated(&x, shape, FIRST)?;
        let bound: Vec<f64> =
            truth.iter().zip(bound).map(|(&t, b)| bounds::stored(dtype, t, b)).collect();
        let got = gpu.download(&out, dtype);
        all.push(Measured::new("rope", dtype, Some(dtype), &got, &truth, &bound)?);
    }
    Ok(all)
}
