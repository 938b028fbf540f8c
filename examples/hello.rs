//! The smallest whole program: q and k are rotated by their positions, RoPE++ attention runs over
//! them, and the heads come back. `cargo run --example hello`

use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::wgpu::{BufferUsages as Usage, util, util::DeviceExt as _};
use phasor::{Capabilities, DType, Dispatch, HeadMap, Layout, Result, Tensor, attention::*, wgpu};

/// Rotates q `[1, 4, 16, 64]` and k `[1, 2, 16, 64]` where they lie.
fn rotate(device: &wgpu::Device, [q, k]: [&wgpu::Buffer; 2], table: CosSin) -> Result<Dispatch> {
    let problem = RopeProblem { in_place: true, ..RopeProblem::new(4, 2, 64) };
    let kernel = Rope::new(device, &problem.plan(&Capabilities::of(device))?)?;
    let tensor = |buffer, heads| -> Result<Tensor<'_>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, heads, 16, 64])?))
    };
    let bindings = RopeBindings::new(tensor(q, 4)?, Rotation::new(table, Positions::From(0)));
    let bindings = RopeBindings { k: Some(tensor(k, 2)?), ..bindings };
    kernel.bind(device, &RopeShape::new(1, 16), &bindings)
}

/// RoPE++ attention of rotated q [1, 4, 16, 64] and k, v [1, 2, 16, 64] into out [1, 8, 16, 64].
fn attend(device: &wgpu::Device, [q, k, v, out]: [&wgpu::Buffer; 4]) -> Result<Dispatch> {
    let problem = AttentionProblem::new(HeadMap::ropepp(4)?, 2, 64); // what: heads, kv heads, D
    let plan = problem.plan(&Capabilities::of(device))?; // how; it prints itself
    let kernel = Attention::new(device, &plan)?; // compiled: keep it
    let tensor = |buffer, heads| -> Result<Tensor<'_>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, heads, 16, 64])?))
    };
    let [q, k, v, out] = [tensor(q, 4)?, tensor(k, 2)?, tensor(v, 2)?, tensor(out, 8)?];
    let bindings = AttentionBindings::new(q, k, v, out);
    kernel.bind(device, &AttentionShape::new(1, 16, 16), &bindings) // checked: keep it, too
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let adapter = wgpu::Instance::default().request_adapter(&Default::default());
    let adapter = pollster::block_on(adapter)?;
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
    let buffer = |contents: &[u8]| {
        let usage = Usage::STORAGE | Usage::COPY_SRC;
        device.create_buffer_init(&util::BufferInitDescriptor { label: None, contents, usage })
    };
    let floats = |heads: u32, step: f32| {
        let wave: Vec<f32> = (0..heads * 16 * 64).map(|i| (i as f32 * step).sin()).collect();
        buffer(bytemuck::cast_slice(&wave))
    };
    let (q, k, v, out) = (floats(4, 0.3), floats(2, 0.7), floats(2, 0.1), floats(8, 0.0));
    let table = RopeConfig::new(64, 10_000.0).table(16, 16)?; // cos and sin of 16 positions
    let angles = buffer(table.as_bytes());
    let table = CosSin { binding: angles.as_entire_buffer_binding(), shape: table.shape()? };

    let calls = [rotate(&device, [&q, &k], table)?, attend(&device, [&q, &k, &v, &out])?];
    let mut encoder = device.create_command_encoder(&Default::default());
    calls.iter().for_each(|call| call.encode(&mut encoder)); // cannot fail, as often as wanted
    queue.submit([encoder.finish()]);

    let (sender, receiver) = std::sync::mpsc::channel();
    util::DownloadBuffer::read_buffer(&device, &queue, &out.slice(..), move |read| {
        let _ = sender.send(read);
    });
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let read = receiver.recv()??;
    println!("{}", adapter.get_info().name);
    for (head, rows) in bytemuck::cast_slice::<u8, f32>(&read).chunks(16 * 64).enumerate() {
        let part = ["real", "imaginary"][head % 2];
        println!("query head {}, {part:9}: last row {:.4?} ...", head / 2, &rows[15 * 64..][..4]);
    }
    Ok(())
}
