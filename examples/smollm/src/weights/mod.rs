//! The matrices of a model, and what their shapes say about it.

mod blocks;
mod gguf;
mod safetensors;

use std::path::Path;

use phasor::HeadMap;
use phasor::cache::{CacheFormat, CacheType, ModelKind, ModelShape};
use phasor::rotary::RopeConfig;

use crate::Result;
use crate::linear::{Linear, Matrix, Norm};
use crate::text::Text;

/// What the file says about the model, beside its matrices.
pub struct Config {
    pub layers: u32,
    /// Query heads of the configuration; EH projects half as many.
    pub heads: u32,
    /// Kv heads of the configuration; EH projects half as many.
    pub kv_heads: u32,
    pub head_dim: u32,
    pub rms_eps: f32,
    /// The longest sequence that the model was made for.
    pub context: u32,
    /// Frequencies, and where the pairs of a head lie.
    pub rope: RopeConfig,
    /// Tokens that end a text.
    pub end: Vec<u32>,
}

/// One decoder layer.
pub struct Layer {
    pub attention_norm: Norm,
    /// W_q, W_k and W_v, one below the other: one product gives the packed rows that the GPU reads.
    pub qkv: Linear,
    pub output: Linear,
    pub mlp_norm: Norm,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// A whole model in f32.
pub struct Weights {
    pub config: Config,
    /// RoPE, or which RoPE++.
    pub components: ModelKind,
    pub layers: Vec<Layer>,
    pub norm: Norm,
    /// `[vocabulary, width]`.
    embedding: Linear,
    /// The output matrix, where it is not the embedding.
    head: Option<Linear>,
    /// Vocabulary and chat template, where the file has them.
    pub text: Option<Text>,
}

impl Weights {
    /// Reads a GGUF file, or a safetensors file with the model's configuration in its header or in
    /// a `config.json` beside it.
    pub fn read(path: &Path) -> Result<Self> {
        let kind = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let weights = match kind.as_str() {
            "gguf" => gguf::read(path),
            "safetensors" => safetensors::read(path),
            _ => Err("is neither .gguf nor .safetensors".into()),
        };
        weights.map_err(|why| format!("{}: {why}", path.display()).into())
    }

    /// Reads a file that is in memory: GGUF, or safetensors with the model's configuration in its
    /// header, or in `config`, the text of its `config.json`.
    pub fn from_bytes(bytes: &[u8], config: Option<&str>) -> Result<Self> {
        match bytes.starts_with(b"GGUF") {
            true => gguf::parse(bytes),
            false => safetensors::parse(bytes, || {
                let config = config.map(str::to_owned);
                config.ok_or_else(|| "no configuration in the header".into())
            }),
        }
    }

    /// Puts a model together from its tensors, asked for by their Hugging Face names; vectors come
    /// as matrices of one row. Without a `lm_head.weight` the embedding is the output matrix too.
    fn assemble(
        config: Config,
        text: Option<Text>,
        mut get: impl FnMut(&str) -> Result<Option<Matrix>>,
    ) -> Result<Self> {
        let head = get("lm_head.weight")?;
        let mut need = |name: &str| -> Result<Matrix> {
            get(name)?.ok_or_else(|| format!("the tensor {name} is missing").into())
        };
        let eps = config.rms_eps;
        let embedding = Linear::new(need("model.embed_tokens.weight")?);
        let (vocabulary, width) = (embedding.weight().len(), embedding.weight().columns());
        let head = head.map(|head| shaped("lm_head.weight", head, [Some(vocabulary), Some(width)]));
        let norm = shaped("model.norm.weight", need("model.norm.weight")?, [Some(1), Some(width)])?;
        let mut components = None;
        let mut layers = Vec::new();
        for i in 0..config.layers {
            let mut part = |name: &str, rows, columns| {
                let name = format!("model.layers.{i}.{name}.weight");
                shaped(&name, need(&name)?, [rows, columns])
            };
            let mut reads = |name: &str| part(name, None, Some(width));
            let [q, k, v] = [
                reads("self_attn.q_proj")?,
                reads("self_attn.k_proj")?,
                reads("self_attn.v_proj")?,
            ];
            let (gate, up) = (reads("mlp.gate_proj")?, reads("mlp.up_proj")?);
            let o = part("self_attn.o_proj", Some(width), None)?;
            let sizes = [q.len(), k.len(), v.len(), o.columns()];
            let found = components_of(&config, sizes)?;
            if components.replace(found).is_some_and(|earlier| earlier != found) {
                return Err(
                    format!("layer {i} is {found:?}, and the layers before it are not").into()
                );
            }
            let down = part("mlp.down_proj", Some(width), Some(gate.len()))?;
            let up = shaped("mlp.up_proj", up, [Some(gate.len()), Some(width)])?;
            let mut norm = |name: &str| -> Result<Norm> {
                Ok(Norm::new(part(name, Some(1), Some(width))?, eps))
            };
            layers.push(Layer {
                attention_norm: norm("input_layernorm")?,
                qkv: Linear::new(Matrix::stack(&[q, k, v])),
                output: Linear::new(o),
                mlp_norm: norm("post_attention_layernorm")?,
                gate: Linear::new(gate),
                up: Linear::new(up),
                down: Linear::new(down),
            });
        }
        let components = components.ok_or("the model has no layers")?;
        let head = head.transpose()?.map(Linear::new);
        let norm = Norm::new(norm, eps);
        Ok(Self { config, components, layers, norm, embedding, head, text })
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.embedding.weight().len()
    }

    /// Rows of the embedding, `[ids, width]`.
    pub fn embed(&self, ids: &[u32]) -> Result<Matrix> {
        let vocabulary = self.vocabulary();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(format!("token {id} is not one of the {vocabulary} of the model").into());
        }
        let all = self.embedding.weight();
        let rows = ids.iter().flat_map(|&id| all.row(id as usize)).copied();
        Matrix::new(all.columns(), rows.collect())
    }

    /// The output matrix.
    pub fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The output heads of a layer.
    pub fn heads(&self) -> Result<HeadMap> {
        let heads = self.config.heads;
        Ok(match self.components {
            ModelKind::Plain => HeadMap::plain(heads)?,
            ModelKind::EqualCache => HeadMap::ropepp(heads)?,
            ModelKind::EqualHeads => HeadMap::ropepp(heads / 2)?,
        })
    }

    /// The cache of all layers, K and V stored alike.
    pub fn shape(&self, stored: CacheType) -> ModelShape {
        let Config { layers, kv_heads, head_dim, .. } = self.config;
        let (value_dim, k, v) = (head_dim, stored, stored);
        ModelShape { layers, kv_heads, head_dim, value_dim, kind: self.components, k, v }
    }

    /// The cache of one layer.
    pub fn cache(&self, stored: CacheType) -> Result<CacheFormat> {
        Ok(self.shape(stored).cache()?)
    }
}

/// A tensor of the rows and columns that are known.
fn shaped(name: &str, matrix: Matrix, due: [Option<usize>; 2]) -> Result<Matrix> {
    let found = [matrix.len(), matrix.columns()];
    if due.iter().zip(found).all(|(due, found)| due.is_none_or(|due| due == found)) {
        return Ok(matrix);
    }
    let due = due.map(|due| due.map_or("any".to_owned(), |due| due.to_string()));
    Err(format!("{name} must be [{}, {}], but is {found:?}", due[0], due[1]).into())
}

/// Rows of W_q, W_k and W_v and columns of W_o say which components a model attends with: EH halves
/// W_k (and W_q), EC doubles W_o. The authors' `config.json` does not say it.
fn components_of(config: &Config, sizes: [usize; 4]) -> Result<ModelKind> {
    let dim = config.head_dim as usize;
    let (q, kv) = (config.heads as usize * dim, config.kv_heads as usize * dim);
    let plain = [q, kv, kv, q];
    let equal_cache = [q, kv, kv, 2 * q];
    let equal_heads = [q / 2, kv / 2, kv / 2, q];
    match sizes {
        it if it == plain => Ok(ModelKind::Plain),
        it if it == equal_cache => Ok(ModelKind::EqualCache),
        it if it == equal_heads => Ok(ModelKind::EqualHeads),
        it => Err(format!(
            "rows of W_q, W_k, W_v and columns of W_o are {it:?}; with {} heads and {} kv heads of \
             {dim} they are {plain:?} in a plain model, {equal_cache:?} in EC, {equal_heads:?} in EH",
            config.heads, config.kv_heads,
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_tell_the_components() {
        let config = Config {
            layers: 1,
            heads: 8,
            kv_heads: 4,
            head_dim: 128,
            rms_eps: 1e-5,
            context: 4096,
            rope: RopeConfig::new(128, 1e4),
            end: Vec::new(),
        };
        let of = |sizes| components_of(&config, sizes).ok();
        assert_eq!(of([1024, 512, 512, 1024]), Some(ModelKind::Plain));
        assert_eq!(of([1024, 512, 512, 2048]), Some(ModelKind::EqualCache));
        assert_eq!(of([512, 256, 256, 1024]), Some(ModelKind::EqualHeads));
        assert_eq!(of([1024, 512, 256, 1024]), None);
        assert_eq!(of([512, 256, 256, 512]), None);
    }
}
