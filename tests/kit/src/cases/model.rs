//! Whole small models, as `LlamaForCausalLM` computes them: matrix products and norms on the host
//! in f64, attention over a cache by whoever runs the case.

use std::collections::BTreeSet;

use phasor::{HeadMap, rotary::RopeConfig};
use serde_json::Value;

use super::{Case, Cases, Expected, Matrix, Result, read::*, swap_axes};
use crate::{
    golden::File,
    runner::{Attend, ModelAttention},
};

/// The bound that README states for logits.
const LOGITS: f64 = 5e-5;

/// A model, a prompt and what it goes on with.
#[derive(Debug, Clone)]
pub struct ModelCase {
    pub name: String,
    pub model: Model,
    /// Token ids, `[B, T]`.
    pub prompt: Vec<Vec<u32>>,
    /// `[B, 1, T, vocabulary]`.
    pub logits: Expected,
    /// The likeliest token after the prompt, and after each of these tokens in turn, `[B, steps]`.
    pub greedy: Vec<Vec<u32>>,
    /// Logits after each of these tokens, `[B, 1, steps, vocabulary]`.
    pub step_logits: Expected,
}

/// The weights, and what the configuration says about them.
#[derive(Debug, Clone)]
pub struct Model {
    /// Also the output projection, where the two are tied.
    pub(super) embedding: Matrix,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Vec<f64>,
    pub(super) head: Option<Matrix>,
    pub(super) norm_eps: f64,
    pub heads: HeadMap,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub config: RopeConfig,
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) attention_norm: Vec<f64>,
    pub(super) qkv: [Matrix; 3],
    pub(super) out: Matrix,
    pub(super) mlp_norm: Vec<f64>,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
}

pub fn recognises(file: &File) -> bool {
    has(file, "w.model.embed_tokens.weight") && has(file, "logits")
}

pub fn parse(file: &File) -> Result<Cases> {
    let model = Model::read(file)?;
    let vocabulary = model.embedding.outputs() as u32;
    let prompt = tokens(file, "input_ids", vocabulary)?;
    let greedy = tokens(file, "greedy_tokens", vocabulary)?;
    if prompt.len() != greedy.len() {
        return Err(format!("{}: {} prompts, not {}", file.name, prompt.len(), greedy.len()).into());
    }
    let logits = |name: &str, tokens: &[Vec<u32>]| -> Result<Expected> {
        let shape = [tokens.len(), 1, tokens.first().map_or(0, Vec::len), vocabulary as usize];
        Expected::whole(name, file.tensor(name)?, shape.map(|n| n as u32), LOGITS)
    };
    let case = ModelCase {
        name: case_name(file, "logits and greedy tokens"),
        logits: logits("logits", &prompt)?,
        step_logits: logits("greedy_step_logits", &greedy)?,
        prompt,
        greedy,
        model,
    };
    Ok(Cases { cases: vec![Case::Model(case)], ..Cases::default() })
}

/// Token ids `[B, T]`, or `[T]` of a single sequence.
fn tokens(file: &File, name: &str, vocabulary: u32) -> Result<Vec<Vec<u32>>> {
    let (shape, _) = file.integers(name)?;
    let ids = counts(file, name)?;
    let length = shape.last().copied().unwrap_or(0);
    if !matches!(shape.len(), 1 | 2) || length == 0 || ids.iter().any(|&id| id >= vocabulary) {
        return Err(format!("{}: {name} {shape:?} are no tokens", file.name).into());
    }
    Ok(ids.chunks_exact(length).map(<[u32]>::to_vec).collect())
}

impl Model {
    pub(super) fn read(file: &File) -> Result<Self> {
        let about = file.json("config")?;
        let mut read = BTreeSet::new();
        let mut weight = |name: &str| -> Result<(Vec<usize>, Vec<f64>)> {
            let name = format!("w.{name}.weight");
            let tensor = file.tensor(&name)?;
            read.insert(name);
            Ok((tensor.shape.clone(), tensor.f64()))
        };
        let hidden = count(&about, "hidden_size")? as usize;
        let mut matrix = |name: &str, inputs: Option<usize>| -> Result<Matrix> {
            let (shape, weights) = weight(name)?;
            match Matrix::new(&shape, weights) {
                Ok(matrix) if inputs.is_none_or(|inputs| matrix.inputs == inputs) => Ok(matrix),
                _ => Err(format!("{name}: shape {shape:?} for {inputs:?} inputs").into()),
            }
        };
        let from_hidden = Some(hidden);
        let embedding = matrix("model.embed_tokens", from_hidden)?;
        let head = match has(file, "w.lm_head.weight") {
            true => Some(matrix("lm_head", from_hidden)?),
            false => None,
        };
        let layers = count(&about, "layers").or_else(|_| count(&about, "num_hidden_layers"))?;
        let mut projections = Vec::new();
        for layer in 0..layers {
            let mut part =
                |name: &str, inputs| matrix(&format!("model.layers.{layer}.{name}"), inputs);
            let mut attention =
                |name: &str, inputs| part(&format!("self_attn.{name}_proj"), inputs);
            let qkv = [
                attention("q", from_hidden)?,
                attention("k", from_hidden)?,
                attention("v", from_hidden)?,
            ];
            let out = attention("o", None)?;
            let mut mlp = |name: &str, inputs| part(&format!("mlp.{name}_proj"), inputs);
            let (gate, up) = (mlp("gate", from_hidden)?, mlp("up", from_hidden)?);
            let down = mlp("down", Some(gate.outputs()))?;
            if out.outputs() != hidden || down.outputs() != hidden || up.outputs() != gate.outputs()
            {
                return Err(
                    format!("{}: projections of layer {layer} do not fit", file.name).into()
                );
            }
            projections.push((qkv, out, gate, up, down));
        }
        let mut norm = |name: &str| -> Result<Vec<f64>> {
            let (shape, weights) = weight(name)?;
            match weights.len() {
                n if n == hidden => Ok(weights),
                _ => Err(format!("{name}: shape {shape:?}, not {hidden}").into()),
            }
        };
        let mut blocks = Vec::new();
        for (layer, (qkv, out, gate, up, down)) in projections.into_iter().enumerate() {
            let attention_norm = norm(&format!("model.layers.{layer}.input_layernorm"))?;
            let mlp_norm = norm(&format!("model.layers.{layer}.post_attention_layernorm"))?;
            blocks.push(Block { attention_norm, qkv, out, mlp_norm, gate, up, down });
        }
        let norm = norm("model.norm")?;
        // A weight that nothing here multiplies with belongs to another kind of model.
        if let Some(other) =
            file.names().iter().find(|n| n.starts_with("w.") && !read.contains(**n))
        {
            return Err(format!("{}: {other} is not part of a model known here", file.name).into());
        }
        match text(&about, "hidden_act") {
            Ok("silu") => {}
            other => return Err(format!("{}: hidden_act {other:?}, not silu", file.name).into()),
        }
        let heads = count(&about, "num_attention_heads")?;
        let head_dim = count(&about, "head_dim").unwrap_or(hidden as u32 / heads.max(1));
        let first = blocks.first().ok_or("a model without layers")?;
        let (heads, kv_heads) = shape_of_heads(&about, head_dim, first)?;
        let fits = |block: &Block| {
            let rows = [heads.q_heads(), kv_heads, kv_heads].map(|n| (n * head_dim) as usize);
            block.qkv.each_ref().map(Matrix::outputs) == rows
                && block.out.inputs == heads.heads().len() * head_dim as usize
        };
        if !blocks.iter().all(fits) {
            return Err(format!("{}: the layers' projections differ in shape", file.name).into());
        }
        Ok(Self {
            norm_eps: number(&about, "rms_norm_eps")?,
            config: rope_of(&about)?,
            embedding,
            blocks,
            norm,
            head,
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// Names of the parameters, in the order of [`Model::parameters`].
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = vec!["model.embed_tokens".to_owned()];
        for layer in 0..self.blocks.len() {
            let parts = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj"];
            let parts = parts.iter().chain(&["self_attn.v_proj", "self_attn.o_proj"]);
            let parts = parts.chain(&["post_attention_layernorm", "mlp.gate_proj"]);
            let parts = parts.chain(&["mlp.up_proj", "mlp.down_proj"]);
            names.extend(parts.map(|part| format!("model.layers.{layer}.{part}")));
        }
        names.push("model.norm".to_owned());
        names.extend(self.head.as_ref().map(|_| "lm_head".to_owned()));
        names.into_iter().map(|name| format!("{name}.weight")).collect()
    }

    /// Every weight, for an optimizer.
    pub(super) fn parameters(&mut self) -> Vec<&mut [f64]> {
        let mut all: Vec<&mut [f64]> = vec![&mut self.embedding.weights];
        for block in &mut self.blocks {
            all.push(&mut block.attention_norm);
            all.extend(block.qkv.iter_mut().map(|w| w.weights.as_mut_slice()));
            all.extend([block.out.weights.as_mut_slice(), &mut block.mlp_norm]);
            let mlp = [&mut block.gate, &mut block.up, &mut block.down];
            all.extend(mlp.map(|w| w.weights.as_mut_slice()));
        }
        all.push(&mut self.norm);
        all.extend(self.head.as_mut().map(|w| w.weights.as_mut_slice()));
        all
    }

    /// What its attention layers need to know, for sequences up to `capacity` tokens.
    pub fn attention(&self, batch: u32, capacity: u32) -> ModelAttention {
        ModelAttention {
            layers: self.blocks.len(),
            batch,
            capacity,
            heads: self.heads.clone(),
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            softmax_scale: f64::from(self.head_dim).powf(-0.5),
            config: self.config.clone(),
        }
    }

    /// Logits `[B, S, vocabulary]` of new tokens `[B, S]` behind `past` others.
    pub fn forward(
        &self,
        tokens: &[&[u32]],
        past: u32,
        attention: &mut dyn Attend,
    ) -> Result<Vec<f64>> {
        let (batch, seq) = (tokens.len() as u32, tokens.first().map_or(0, |ids| ids.len()) as u32);
        let ids = tokens.iter().copied().flatten();
        let mut x: Vec<f64> =
            ids.flat_map(|&id| self.embedding.row(id as usize).to_vec()).collect();
        for (layer, block) in self.blocks.iter().enumerate() {
            let normed = self.normed(&x, &block.attention_norm);
            let [q, k, v] = block.qkv.each_ref().map(|w| {
                let heads = w.outputs() as u32 / self.head_dim;
                let rows = swap_axes(&w.times(&normed), [batch, seq, heads, self.head_dim]);
                // What the kernels take.
                rows.into_iter().map(|x| x as f32).collect::<Vec<f32>>()
            });
            let heads = attention.attend(layer, past, [&q, &k, &v])?;
            let heads_out = self.heads.heads().len() as u32;
            let merged = swap_axes(&heads, [batch, heads_out, seq, self.head_dim]);
            add(&mut x, &block.out.times(&merged));
            let normed = self.normed(&x, &block.mlp_norm);
            let (gate, up) = (block.gate.times(&normed), block.up.times(&normed));
            let gated: Vec<f64> =
                gate.iter().zip(up).map(|(g, up)| g / (1.0 + (-g).exp()) * up).collect();
            add(&mut x, &block.down.times(&gated));
        }
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        Ok(head.times(&self.normed(&x, &self.norm)))
    }

    /// RMSNorm of every row.
    pub(super) fn normed(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        x.chunks_exact(weight.len())
            .flat_map(|row| {
                let square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
                let scale = 1.0 / (square + self.norm_eps).sqrt();
                row.iter().zip(weight).map(move |(x, w)| x * scale * w)
            })
            .collect()
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Output heads and kv heads. The shapes of the projections say which components a model has: EC
/// doubles the heads that go into the output projection, EH halves those of q, k and v.
fn shape_of_heads(about: &Value, head_dim: u32, block: &Block) -> Result<(HeadMap, u32)> {
    let heads = count(about, "num_attention_heads")?;
    let kv_heads = count(about, "num_key_value_heads").unwrap_or(heads);
    let [q, kv, out] = [block.qkv[0].outputs(), block.qkv[1].outputs(), block.out.inputs]
        .map(|channels| channels as u32 / head_dim.max(1));
    let by_shape = match () {
        () if [q, kv, out] == [heads, kv_heads, heads] => HeadMap::plain(q)?,
        () if [q, kv, out] == [heads, kv_heads, 2 * heads] => HeadMap::ropepp(q)?,
        () if [2 * q, 2 * kv, out] == [heads, kv_heads, heads] => HeadMap::ropepp(q)?,
        () => {
            let got = format!("{q}, {kv} and {out} heads of {head_dim} in q, k and out");
            return Err(format!("{got} fit no mode of {heads} and {kv_heads} heads").into());
        }
    };
    let stated = match &about["rope_config"] {
        Value::Null => by_shape.clone(),
        config => head_map(config, q)?,
    };
    // Ablations, such as imaginary heads alone, have the shapes of plain models.
    if stated.heads().len() != by_shape.heads().len() {
        return Err(format!("rope_config {} and {out} heads into out", about["rope_config"]).into());
    }
    Ok((stated, kv))
}
