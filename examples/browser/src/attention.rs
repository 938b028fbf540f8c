//! Causal prefill: the real component alone, and both from one pass.

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::wgpu::util::DeviceExt as _;
use phasor::{Capabilities, DType, HeadMap, Layout, Tensor, wgpu};

use crate::{Result, done};

const HEADS: u32 = 8;
const SEQ: u32 = 1024;
const DIM: u32 = 64;

/// Milliseconds that the timed calls take together, at least.
const LONG_ENOUGH: f64 = 300.0;

/// A line for each.
pub async fn times(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<String> {
    let caps = Capabilities::of(device);
    let mut text =
        format!("causal prefill, S {SEQ}, D {DIM}, {HEADS} query heads, {HEADS} kv heads, f32");
    for (name, heads) in [("plain", HeadMap::plain(HEADS)?), ("fused", HeadMap::ropepp(HEADS)?)] {
        let (ms, flops) = time(device, queue, &caps, heads).await?;
        text += &format!("\n  {name}  {ms:8.2} ms  {:8.1} GFLOP/s", flops / ms * 1e-6);
    }
    Ok(text)
}

/// Milliseconds and operations of a call.
async fn time(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    caps: &Capabilities,
    heads: HeadMap,
) -> Result<(f64, f64)> {
    let heads_out = heads.heads().len() as u32;
    let plan = AttentionProblem::new(heads, HEADS, DIM).plan(caps)?;
    let kernel = Attention::new(device, &plan)?;
    let buffer = |heads: u32| {
        // Numbers of the size of 1, of no pattern that the kernel could profit from.
        let numbers: Vec<f32> = (0..heads * SEQ * DIM)
            .map(|i| (f64::from(i) * 0.618_034).fract() as f32 - 0.5)
            .collect();
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&numbers),
            usage: wgpu::BufferUsages::STORAGE,
        })
    };
    let [q, k, v, out] = [HEADS, HEADS, HEADS, heads_out].map(buffer);
    let tensor = |buffer, heads| -> Result<Tensor<'_>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, heads, SEQ, DIM])?))
    };
    let bindings = AttentionBindings::new(
        tensor(&q, HEADS)?,
        tensor(&k, HEADS)?,
        tensor(&v, HEADS)?,
        tensor(&out, heads_out)?,
    );
    let shape = AttentionShape::new(1, SEQ, SEQ);
    let call = kernel.bind(device, &shape, &bindings)?;
    let mut calls = 1_u32;
    loop {
        let start = js_sys::Date::now();
        let mut encoder = device.create_command_encoder(&Default::default());
        for _ in 0..calls {
            call.encode(&mut encoder);
        }
        queue.submit([encoder.finish()]);
        done(queue).await;
        let ms = js_sys::Date::now() - start;
        // The first call compiles.
        if calls > 1 && ms >= LONG_ENOUGH {
            return Ok((ms / f64::from(calls), plan.cost(&shape).flops as f64));
        }
        calls *= 2;
    }
}
