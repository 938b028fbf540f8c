//! A model that reads a sequence: rotation, caches and attention by `phasor::layers`.

use phasor::layers::{Layer, Layers, Model, Sequence};
use phasor::wgpu::{self, BufferUsages};
use phasor::{Capabilities, HeadMap};

use super::matrices::{Matrix, Weights, add, normed};
use crate::Result;
use crate::config::{ModelConfig, Variant};
use crate::file::File;

/// Rows of a step.
const ROWS: usize = 32;

/// A model and the sequence that it reads.
pub struct Writer {
    device: wgpu::Device,
    queue: wgpu::Queue,
    layers: Layers,
    sequence: Sequence,
    /// q, k and v; what attention gives; the same to be read.
    buffers: [wgpu::Buffer; 3],
    embedding: Matrix,
    weights: Vec<Weights>,
    norm: Vec<f32>,
    head: Matrix,
    eps: f32,
}

impl Writer {
    pub fn new(config: &ModelConfig, file: &File, capacity: usize) -> Result<Self> {
        let instance = wgpu::Instance::default();
        let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
        let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
        let layer = layer(config)?;
        let dim = config.head_dim;
        let model = Model {
            max_rows: ROWS as u32,
            ..Model::new(vec![layer.clone(); config.num_hidden_layers], 1, u32::try_from(capacity)?)
        };
        let plan = model.plan(&Capabilities::of(&device))?;
        let mut layers = Layers::new(&device, &plan)?;
        let out = layer.heads.heads().len() * dim;
        let all = (layer.heads.q_heads() + 2 * layer.kv_heads) as usize * dim;
        let buffer = |row: usize, usage| {
            let size = 4 * (ROWS * row) as u64;
            let mapped_at_creation = false;
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation,
            })
        };
        let buffers = [
            buffer(all, BufferUsages::STORAGE | BufferUsages::COPY_DST),
            buffer(out, BufferUsages::STORAGE | BufferUsages::COPY_SRC),
            buffer(out, BufferUsages::MAP_READ | BufferUsages::COPY_DST),
        ];
        for n in 0..config.num_hidden_layers {
            let [qkv, out] = [0, 1].map(|b: usize| buffers[b].as_entire_buffer_binding());
            layers.bind_packed(n, qkv, out)?;
        }
        let sequence = layers.start()?;
        let read = |n| Weights::read(file, n, config, &layer);
        let vocabulary = [config.vocab_size, config.hidden_size];
        Ok(Self {
            device,
            queue,
            layers,
            sequence,
            buffers,
            embedding: Matrix::read(file, "model.embed_tokens.weight", vocabulary)?,
            weights: (0..config.num_hidden_layers).map(read).collect::<Result<_>>()?,
            norm: file.floats("model.norm.weight")?.1,
            head: Matrix::read(file, "lm_head.weight", vocabulary)?,
            eps: config.rms_norm_eps as f32,
        })
    }

    /// Reads tokens on; logits of the one after.
    pub fn read(&mut self, tokens: &[u8]) -> Result<Vec<f32>> {
        let mut last = Vec::new();
        for part in tokens.chunks(ROWS) {
            self.layers.advance(&self.queue, &[(self.sequence, part.len() as u32)])?;
            let width = self.embedding.inputs;
            let row = |&token: &u8| {
                let start = usize::from(token) * width;
                self.embedding.weights[start..start + width].to_vec()
            };
            let mut x: Vec<Vec<f32>> = part.iter().map(row).collect();
            for n in 0..self.weights.len() {
                let attended = self.attend(n, &x)?;
                let Self { weights, eps, .. } = self;
                let Weights { output, mlp_norm, gate, up, down, .. } = &weights[n];
                for (x, attended) in x.iter_mut().zip(attended.chunks(output.inputs)) {
                    add(x, &output.of(attended));
                    let h = normed(x, mlp_norm, *eps);
                    let silu = |x: f32| x / (1.0 + (-x).exp());
                    let gated = gate.of(&h).into_iter().zip(up.of(&h)).map(|(g, u)| silu(g) * u);
                    add(x, &down.of(&gated.collect::<Vec<_>>()));
                }
            }
            last = x.pop().unwrap_or_default();
        }
        Ok(self.head.of(&normed(&last, &self.norm, self.eps)))
    }

    /// Output rows of a layer's attention, from those that come in.
    fn attend(&mut self, n: usize, x: &[Vec<f32>]) -> Result<Vec<f32>> {
        let Self { device, queue, layers, buffers: [qkv, out, staging], weights, eps, .. } = self;
        let rows = x.iter().flat_map(|x| {
            let h = normed(x, &weights[n].attention_norm, *eps);
            weights[n].qkv.iter().flat_map(move |matrix| matrix.of(&h)).collect::<Vec<f32>>()
        });
        queue.write_buffer(qkv, 0, bytemuck::cast_slice(&rows.collect::<Vec<_>>()));
        let mut encoder = device.create_command_encoder(&Default::default());
        layers.encode(n, &mut encoder)?;
        encoder.copy_buffer_to_buffer(out, 0, staging, 0, None);
        queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| ());
        device.poll(wgpu::PollType::wait_indefinitely())?;
        let attended = bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..)?);
        staging.unmap();
        Ok(attended)
    }
}

/// The attention of every layer, in phasor's words.
fn layer(config: &ModelConfig) -> Result<Layer> {
    let sizes = config.sizes(0);
    let share = if config.mode == Variant::Eh { 2 } else { 1 };
    let (heads, kv_heads) = (sizes.heads / share, sizes.kv_heads / share);
    let heads = match config.mode {
        Variant::Ec | Variant::Eh => HeadMap::ropepp(u32::try_from(heads)?)?,
        _ => HeadMap::plain(u32::try_from(heads)?)?,
    };
    let outputs = heads.q_heads();
    let slope = |h: u32| (-8.0 * (h + 1) as f32 / outputs as f32).exp2();
    let mut layer = Layer::new(heads, u32::try_from(kv_heads)?, config.rope()?);
    if config.mode == Variant::Alibi {
        layer.alibi_slopes = (0..outputs).map(slope).collect();
    }
    if !config.mode.rotates() {
        layer.rope = None;
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, Tensor, TensorData};
    use phasor_burn::Implementation;

    use super::*;
    use crate::checkpoint;
    use crate::config::Chosen;
    use crate::model::Lm;
    use crate::optimizer::values;
    use crate::weights::Stored;

    /// The layer API gives the logits of the model that was trained: with both components and half
    /// the heads, and without a rotation.
    #[test]
    fn it_writes_what_the_model_foretells() {
        let symbols: String = ('a'..='z').collect();
        for mode in [Variant::Eh, Variant::Alibi] {
            let chosen = Chosen {
                layers: 2,
                hidden: 32,
                heads: 2,
                kv_heads: None,
                mlp: None,
                ctx: 40,
                theta: 1e4,
            };
            let config = ModelConfig::new(mode, &chosen, symbols.clone()).unwrap();
            let device = Device::flex();
            let rope = config.rope().unwrap();
            let sizes = config.sizes(40);
            let mut model = Lm::new(&sizes, &rope, Implementation::Formula, &device).unwrap();
            model.start(7);
            let name = format!("phasor-train-{}-{}", std::process::id(), mode.name());
            let folder = std::env::temp_dir().join(name);
            checkpoint::write_model(&folder, &mut model, &config, Stored::F32).unwrap();
            let file = File::read(&checkpoint::model_file(&folder)).unwrap();
            std::fs::remove_dir_all(&folder).unwrap();

            let text: Vec<u8> = (0..40).map(|n| (n * n % 26) as u8).collect();
            let tokens = text.iter().map(|&token| i32::from(token)).collect();
            let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, 40]), &device);
            let wanted = values(model.logits(tokens).unwrap().narrow(1, 39, 1)).unwrap();
            let mut writer = Writer::new(&config, &file, 40).unwrap();
            // A prompt of more than a step, then tokens one by one.
            writer.read(&text[..35]).unwrap();
            let got =
                text[35..].iter().map(|&token| writer.read(&[token]).unwrap()).last().unwrap();
            let size = wanted.iter().map(|x| x.abs()).fold(0f32, f32::max);
            let apart = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(size > 1e-3, "{mode:?}: logits of {size}");
            assert!(apart <= 1e-5 * size.max(1.0), "{mode:?}: {apart} apart of {size}");
        }
    }
}
