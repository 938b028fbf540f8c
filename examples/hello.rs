//! The smallest whole program: q and k are rotated by their positions, RoPE++ attention runs over
//! them, and the heads come back. `cargo run --example hello`

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::wgpu::{self, BufferUsages as Usage, util::DeviceExt as _};
use phasor::{Capabilities, DType, HeadMap, Layout, Tensor};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let (heads, kv_heads, seq, dim) = (4, 2, 16, 64);
    // Yours: a device, and buffers. `q` is [1, heads, seq, dim], `k` and `v` are [1, kv_heads, seq, dim].
    let (device, queue) = pollster::block_on(async {
        let adapter = wgpu::Instance::default().request_adapter(&Default::default()).await?;
        println!("{}", adapter.get_info().name);
        Result::Ok(adapter.request_device(&Default::default()).await?)
    })?;
    let buffer = |contents: &[u8]| {
        let usage = Usage::STORAGE | Usage::COPY_SRC;
        let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents, usage };
        device.create_buffer_init(&descriptor)
    };
    let wave = |heads: u32, step: f32| -> Vec<f32> {
        (0..heads * seq * dim).map(|i| (i as f32 * step).sin()).collect()
    };
    let [q, k, v] = [wave(heads, 0.3), wave(kv_heads, 0.7), wave(kv_heads, 0.1)]
        .map(|x| buffer(bytemuck::cast_slice(&x)));
    let out = buffer(&vec![0; (4 * 2 * heads * seq * dim) as usize]); // real, imaginary by turns
    let table = RopeConfig::new(dim, 10_000.0).table(seq, seq.into())?; // cos and sin
    let angles = buffer(table.as_bytes());

    // A kernel comes from a plan, and a plan from a problem and the device. Keep kernels.
    let caps = Capabilities::of(&device);
    let rope = RopeProblem { in_place: true, ..RopeProblem::new(heads, kv_heads, dim) };
    let rope = Rope::new(&device, &rope.plan(&caps)?)?;
    let plan = AttentionProblem::new(HeadMap::ropepp(heads)?, kv_heads, dim).plan(&caps)?;
    println!("{plan}");
    let attention = Attention::new(&device, &plan)?;

    // A call is a kernel bound to tensors. Everything is checked here. Keep calls, too.
    let tensor = |buffer, heads| -> Result<Tensor<'_>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, heads, seq, dim])?))
    };
    let table = CosSin { binding: angles.as_entire_buffer_binding(), shape: table.shape()? };
    let rotate = rope.bind(
        &device,
        &RopeShape { batch: 1, seq },
        &RopeBindings {
            q: tensor(&q, heads)?,
            k: Some(tensor(&k, kv_heads)?),
            q_out: None, // rotated where they lie
            k_out: None,
            rotation: Rotation::new(table, Positions::From(0)),
        },
    )?;
    let bindings = AttentionBindings::new(
        tensor(&q, heads)?,
        tensor(&k, kv_heads)?,
        tensor(&v, kv_heads)?,
        tensor(&out, 2 * heads)?,
    );
    let attend = attention.bind(&device, &AttentionShape::new(1, seq, seq), &bindings)?;

    // Yours again: encoder, submission, reading back. Recording cannot fail and may be repeated.
    let mut encoder = device.create_command_encoder(&Default::default());
    rotate.encode(&mut encoder);
    attend.encode(&mut encoder);
    queue.submit([encoder.finish()]);
    let (sender, receiver) = std::sync::mpsc::channel();
    wgpu::util::DownloadBuffer::read_buffer(&device, &queue, &out.slice(..), move |read| {
        let _ = sender.send(read);
    });
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let bytes = receiver.recv()??;
    let out: &[f32] = bytemuck::cast_slice(&bytes);
    for (head, rows) in out.chunks((seq * dim) as usize).enumerate() {
        let (query, part) = (head / 2, ["real", "imaginary"][head % 2]);
        println!("head {query}, {part:9}: last row begins {:.4?}", &rows[rows.len() - 64..][..4]);
    }
    Ok(())
}
