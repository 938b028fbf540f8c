//! The small matrices of a model, on the CPU.

use phasor::layers::Layer;

use crate::Result;
use crate::config::ModelConfig;
use crate::file::File;

/// `[outputs, inputs]`.
pub struct Matrix {
    pub inputs: usize,
    pub weights: Vec<f32>,
}

impl Matrix {
    pub fn read(file: &File, name: &str, [outputs, inputs]: [usize; 2]) -> Result<Self> {
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

    pub fn of(&self, x: &[f32]) -> Vec<f32> {
        let row = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        self.weights.chunks(self.inputs).map(row).collect()
    }
}

/// The matrices of a layer.
pub struct Weights {
    pub attention_norm: Vec<f32>,
    pub qkv: [Matrix; 3],
    pub output: Matrix,
    pub mlp_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

impl Weights {
    pub fn read(file: &File, layer: usize, config: &ModelConfig, of: &Layer) -> Result<Self> {
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

/// RMSNorm of a row.
pub fn normed(x: &[f32], gamma: &[f32], eps: f32) -> Vec<f32> {
    let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    let factor = (mean + eps).sqrt().recip();
    x.iter().zip(gamma).map(|(x, gamma)| x * factor * gamma).collect()
}

pub fn add(x: &mut [f32], more: &[f32]) {
    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
}
