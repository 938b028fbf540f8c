//! phasor inside a host application, which brings device, queue, buffers and encoder and has passes
//! of its own before and after: here the projections of an attention layer.
//!
//! ```sh
//! cargo run --release --example embed
//! ```
//!
//! ```text
//! host's pass      qkv [S, (Hq + 2 Hkv) D] = hidden Wᵀ
//! phasor's pass    q, k rotated where they lie; real and imaginary heads from one pass over k, v
//! host's pass      y [S, hidden] = heads [S, 2 Hq D] Woᵀ
//! ```
//!
//! All of it goes into one encoder and one submission, three times over with new input. Nothing is
//! copied or laid out anew: q, k and v are read as the host's projection leaves them, and the heads
//! written as its output projection wants them.

mod host;

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::{Capabilities, DType, Dispatch, HeadMap, Layout, Tensor, wgpu};

use host::Host;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SEQ: u32 = 96;
const HIDDEN: u32 = 128;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const DIM: u32 = 64;
/// Heads of the packed projection: those of q, then of k, then of v.
const PACKED: u32 = HEADS + 2 * KV_HEADS;

/// phasor's part of a layer, bound to the host's buffers once and for all.
struct Layer {
    rope: Dispatch,
    attention: Dispatch,
}

impl Layer {
    fn new(
        device: &wgpu::Device,
        qkv: &wgpu::Buffer,
        table: CosSin<'_>,
        heads: &wgpu::Buffer,
    ) -> Result<Self> {
        let caps = Capabilities::of(device);
        // Some heads of the packed tensor.
        let packed = |first, heads| -> Result<Tensor<'_>> {
            let layout = Layout::packed([1, heads, SEQ, DIM], PACKED, first)?;
            Ok(Tensor::new(qkv, DType::F32, layout))
        };
        // q and k lie side by side: for the rotation they are heads of one tensor.
        let rope = RopeProblem { in_place: true, ..RopeProblem::new(HEADS + KV_HEADS, 0, DIM) };
        let rope = Rope::new(device, &rope.plan(&caps)?)?.bind(
            device,
            &RopeShape::new(1, SEQ),
            &RopeBindings::new(
                packed(0, HEADS + KV_HEADS)?,
                Rotation::new(table, Positions::From(0)),
            ),
        )?;
        let plan = AttentionProblem::new(HeadMap::ropepp(HEADS)?, KV_HEADS, DIM).plan(&caps)?;
        println!("{plan}");
        let out = Tensor::new(heads, DType::F32, Layout::bshd([1, 2 * HEADS, SEQ, DIM])?);
        let attention = Attention::new(device, &plan)?.bind(
            device,
            &AttentionShape::new(1, SEQ, SEQ),
            &AttentionBindings::new(
                packed(0, HEADS)?,
                packed(HEADS, KV_HEADS)?,
                packed(HEADS + KV_HEADS, KV_HEADS)?,
                out,
            ),
        )?;
        Ok(Self { rope, attention })
    }

    /// Into a pass that the host may use for more than this.
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.rope.record(pass);
        self.attention.record(pass);
    }
}

fn main() -> Result<()> {
    let host = Host::new()?;
    // Numbers without a pattern that matters.
    let wave = |len: u32, step: f32, size: f32| -> Vec<f32> {
        (0..len).map(|i| size * (i as f32 * step).sin()).collect()
    };
    let weights = [wave(PACKED * DIM * HIDDEN, 1.3, 0.2), wave(HIDDEN * 2 * HEADS * DIM, 2.1, 0.1)];

    // The host's buffers and passes.
    let hidden = host.buffer("hidden", SEQ * HIDDEN);
    let qkv = host.buffer("qkv", SEQ * PACKED * DIM);
    let heads = host.buffer("heads", SEQ * 2 * HEADS * DIM);
    let y = host.buffer("y", SEQ * HIDDEN);
    let w = weights.each_ref().map(|w| {
        let buffer = host.buffer("weights", w.len() as u32);
        host.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(w));
        buffer
    });
    let project = host.product([&hidden, &w[0], &qkv], [SEQ, HIDDEN, PACKED * DIM]);
    let output = host.product([&heads, &w[1], &y], [SEQ, 2 * HEADS * DIM, HIDDEN]);

    // phasor's.
    let table = RopeConfig::new(DIM, 1e4).table(SEQ, SEQ.into())?;
    let angles = host.buffer("cos, sin", table.as_bytes().len() as u32 / 4);
    host.queue.write_buffer(&angles, 0, table.as_bytes());
    let table = CosSin { binding: angles.as_entire_buffer_binding(), shape: table.shape()? };
    let layer = Layer::new(&host.device, &qkv, table, &heads)?;

    for frame in 0..3u8 {
        let input = wave(SEQ * HIDDEN, 0.7 + f32::from(frame), 1.0);
        host.queue.write_buffer(&hidden, 0, bytemuck::cast_slice(&input));
        let mut encoder = host.device.create_command_encoder(&Default::default());
        host.pass(&mut encoder, &project);
        layer.record(&mut encoder.begin_compute_pass(&Default::default()));
        host.pass(&mut encoder, &output);
        host.queue.submit([encoder.finish()]);

        let y = host.read(&y)?;
        println!(
            "frame {frame}: the last row is {:.4?} ...",
            &y[((SEQ - 1) * HIDDEN) as usize..][..4]
        );
    }
    Ok(())
}
