//! Writes letters with a language model of two layers. Its matrices are made up and on the CPU;
//! positions, caches and attention are phasor's, on the GPU.
//!
//! ```sh
//! cargo run --release --example decode
//! ```

use phasor::layers::{Layer, Layers, Model};
use phasor::rotary::RopeConfig;
use phasor::wgpu::{self, BufferUsages, util::BufferInitDescriptor, util::DeviceExt as _};
use phasor::{Capabilities, HeadMap};

/// Channels of the model, of a head, and of q, k and v together; rows of a step.
const SIZES: [usize; 4] = [64, 32, (4 + 2 + 2) * 32, 16];

/// `outputs` rows of made-up weights, times x.
fn product(matrix: usize, outputs: usize, x: &[f32]) -> Vec<f32> {
    let mut state = (matrix as u32).wrapping_mul(0x9e37_79b9);
    let mut weight = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
    (0..outputs).map(|_| x.iter().map(|x| 2.0 * weight() * x / norm).sum()).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [width, dim, all, rows] = SIZES;
    let instance = wgpu::Instance::default();
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
    let buffer = |row: usize, usage| {
        let contents = &vec![0; 4 * rows * row];
        device.create_buffer_init(&BufferInitDescriptor { label: None, contents, usage })
    };
    let qkv = buffer(all, BufferUsages::STORAGE | BufferUsages::COPY_DST);
    let out = buffer(4 * dim, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let staging = buffer(4 * dim, BufferUsages::MAP_READ | BufferUsages::COPY_DST);

    // What the model is, how it runs here, and its kernels, tables and caches for one sequence.
    let layer = Layer::new(HeadMap::plain(4)?, 2, RopeConfig::new(dim as u32, 1e4));
    let model = Model { max_rows: rows as u32, ..Model::new(vec![layer; 2], 1, 256) };
    let plan = model.plan(&Capabilities::of(&device))?;
    println!("{} bytes on {}", plan.bytes().total(), adapter.get_info().name);
    let mut layers = Layers::new(&device, &plan)?;
    for layer in 0..2 {
        let [qkv, out] = [&qkv, &out].map(wgpu::Buffer::as_entire_buffer_binding);
        layers.bind_packed(layer, qkv, out)?;
    }
    let sequence = layers.start()?;
    let mut text = b"rotary".to_vec();
    let mut new = text.clone(); // the prompt, then a letter a step
    while text.len() < 64 {
        layers.advance(&queue, &[(sequence, new.len() as u32)])?;
        let mut x: Vec<_> = new.iter().map(|&it| product(it.into(), width, &[0.5])).collect();
        for layer in 0..2 {
            let input: Vec<f32> = x.iter().flat_map(|x| product(1000 + layer, all, x)).collect();
            queue.write_buffer(&qkv, 0, bytemuck::cast_slice(&input));
            let mut encoder = device.create_command_encoder(&Default::default());
            layers.encode(layer, &mut encoder)?; // rotates, appends, attends
            encoder.copy_buffer_to_buffer(&out, 0, &staging, 0, None);
            queue.submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, .., |_| ());
            device.poll(wgpu::PollType::wait_indefinitely())?;
            let attended: Vec<f32> = bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..)?);
            staging.unmap();
            for (x, attended) in x.iter_mut().zip(attended.chunks(4 * dim)) {
                let added = product(2000 + layer, width, attended);
                x.iter_mut().zip(added).for_each(|(x, added)| *x += added);
            }
        }
        let logits = product(3000, 26, &x[new.len() - 1]);
        let best = (0..26).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
        new = vec![b'a' + best as u8];
        text.extend(&new);
    }
    println!("{}", String::from_utf8(text)?);
    Ok(())
}
