//! `train generate`: text of a model, through phasor's layer API. Rotation, caches and attention
//! are phasor's, on the GPU; the small matrices are multiplied here.

use std::io::{Write as _, stdout};
use std::path::PathBuf;

use clap::Args;
use phasor::layers::{Layer, Layers, Model, Sequence};
use phasor::wgpu::{self, BufferUsages};
use phasor::{Capabilities, HeadMap};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::Result;
use crate::checkpoint;
use crate::config::{ModelConfig, Variant};
use crate::corpus;
use crate::file::File;

/// Writes text with a model.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of a run, of a checkpoint or of a model.
    model: PathBuf,
    /// What the text begins with.
    #[arg(long, default_value = "\nHAMLET.\n")]
    prompt: String,
    /// Characters to write.
    #[arg(long, default_value_t = 400)]
    characters: usize,
    /// How freely it chooses; 0 takes the likeliest character.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// # Errors
/// Where a file cannot be read, the model does not know a character, or there is no adapter.
pub fn generate(arguments: &Arguments) -> Result<()> {
    let folder = checkpoint::newest(&arguments.model)?;
    let config = checkpoint::config(&folder)?;
    let file = File::read(&checkpoint::model_file(&folder))?;
    let prompt = corpus::encode(&config.symbols, &arguments.prompt)?;
    if prompt.is_empty() {
        return Err("--prompt: at least one character".into());
    }
    let capacity = prompt.len() + arguments.characters;
    let mut writer = Writer::new(&config, &file, capacity)?;
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    let mut logits = writer.read(&prompt)?;
    print!("{}", arguments.prompt);
    for _ in 0..arguments.characters {
        let token = choose(&logits, arguments.temperature, &mut rng);
        print!("{}", corpus::decode(&config.symbols, &[token]));
        stdout().flush()?;
        logits = writer.read(&[token])?;
    }
    println!();
    Ok(())
}

/// One of the tokens, by their likelihoods.
fn choose(logits: &[f32], temperature: f32, rng: &mut StdRng) -> u8 {
    let likeliest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let best = likeliest.unwrap_or_default();
    if temperature <= 0.0 {
        return best as u8;
    }
    let weights: Vec<f32> =
        logits.iter().map(|logit| ((logit - logits[best]) / temperature).exp()).collect();
    let mut left = rng.random::<f32>() * weights.iter().sum::<f32>();
    let chosen = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    chosen.unwrap_or(best) as u8
}

/// `[outputs, inputs]`.
struct Matrix {
    inputs: usize,
    weights: Vec<f32>,
}

impl Matrix {
    fn read(file: &File, name: &str, [outputs, inputs]: [usize; 2]) -> Result<Self> {
        let (shape, weights) = file.floats(name)?;
        if shape != [outputs, inputs] {
            return Err(format!(
                "{}: {name}: shape {shape:?} where the model has [{outputs}, {inputs}]",
                file.name()
            )
            .into());
        }
        Ok(Self { inputs, weights })
    }

    fn of(&self, x: &[f32]) -> Vec<f32> {
        let row = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        self.weights.chunks(self.inputs).map(row).collect()
    }
}

/// The matrices of a layer.
struct Weights {
    attention_norm: Vec<f32>,
    qkv: [Matrix; 3],
    output: Matrix,
    mlp_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Weights {
    fn read(file: &File, layer: usize, config: &ModelConfig, of: &Layer) -> Result<Self> {
        let (width, mlp, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let matrix = |part: &str, shape| {
            Matrix::read(file, &format!("model.layers.{layer}.{part}.weight"), shape)
        };
        let norm = |part: &str| -> Result<Vec<f32>> {
            Ok(file.floats(&format!("model.layers.{layer}.{part}.weight"))?.1)
        };
        let (q, kv) = (of.heads.q_heads() as usize * dim, of.kv_heads as usize * dim);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            qkv: [
                matrix("self_attn.q_proj", [q, width])?,
                matrix("self_attn.k_proj", [kv, width])?,
                matrix("self_attn.v_proj", [kv, width])?,
            ],
            output: matrix("self_attn.o_proj", [width, of.heads.heads().len() * dim])?,
            mlp_norm: norm("post_attention_layernorm")?,
            gate: matrix("mlp.gate_proj", [mlp, width])?,
            up: matrix("mlp.up_proj", [mlp, width])?,
            down: matrix("mlp.down_proj", [width, mlp])?,
        })
    }
}

/// Rows of a step.
const ROWS: usize = 32;

/// A model and the sequence that it reads.
struct Writer {
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
    fn new(config: &ModelConfig, file: &File, capacity: usize) -> Result<Self> {
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
    fn read(&mut self, tokens: &[u8]) -> Result<Vec<f32>> {
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

fn normed(x: &[f32], gamma: &[f32], eps: f32) -> Vec<f32> {
    let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    let factor = (mean + eps).sqrt().recip();
    x.iter().zip(gamma).map(|(x, gamma)| x * factor * gamma).collect()
}

fn add(x: &mut [f32], more: &[f32]) {
    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, Tensor, TensorData};
    use phasor_burn::Implementation;

    use super::*;
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
