//! Safetensors: Hugging Face's format, with the configuration apart.

use std::path::Path;

use half::{bf16, f16};
use phasor::rotary::{Like, ModelRope};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use super::{Config, Weights};
use crate::Result;
use crate::linear::Matrix;
use crate::text::Text;

pub(super) fn read(path: &Path) -> Result<Weights> {
    let beside = path.with_file_name("config.json");
    parse(&std::fs::read(path)?, || {
        std::fs::read_to_string(&beside).map_err(|e| {
            format!("no configuration in the header, nor in {}: {e}", beside.display()).into()
        })
    })
}

/// A file in memory, and the configuration beside it, which is asked for where the header has none.
pub(super) fn parse(bytes: &[u8], beside: impl FnOnce() -> Result<String>) -> Result<Weights> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let json = match header.metadata().as_ref().and_then(|entries| entries.get("config")) {
        Some(json) => json.clone(),
        None => beside()?,
    };
    let tensors = SafeTensors::deserialize(bytes)?;
    // Some files put all weights below a name of their own.
    let prefix = if tensors.tensor("w.model.norm.weight").is_ok() { "w." } else { "" };
    let layer = |i: u32| format!("{prefix}model.layers.{i}.input_layernorm.weight");
    let layers = (0..).take_while(|&i| tensors.tensor(&layer(i)).is_ok()).count();
    Weights::assemble(config(&json, layers as u32)?, text(&json)?, |name| {
        let tensor = tensors.tensor(&format!("{prefix}{name}")).ok();
        tensor
            .map(|tensor| matrix(&tensor).map_err(|why| format!("{name}: {why}").into()))
            .transpose()
    })
}

fn matrix(tensor: &TensorView<'_>) -> Result<Matrix> {
    let pairs = || tensor.data().chunks_exact(2).map(|b| [b[0], b[1]]);
    let elements = match tensor.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec(tensor.data()),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        other => return Err(format!("weights of type {other:?} are not read").into()),
    };
    match *tensor.shape() {
        [columns] | [_, columns] => Matrix::new(columns, elements),
        ref other => Err(format!("shape {other:?}").into()),
    }
}

fn config(json: &str, layers: u32) -> Result<Config> {
    let values: Value = serde_json::from_str(json)?;
    let number = |key: &str| {
        let value = values.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        value.ok_or_else(|| format!("config: {key} must be a whole number"))
    };
    let heads = number("num_attention_heads")?;
    let eps = values.get("rms_norm_eps").and_then(Value::as_f64);
    let end: Vec<u64> = match values.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => id.as_u64().into_iter().collect(),
        None => Vec::new(),
    };
    Ok(Config {
        layers,
        heads,
        kv_heads: number("num_key_value_heads").unwrap_or(heads),
        head_dim: number("head_dim")
            .or_else(|_| number("hidden_size").map(|width| width / heads.max(1)))?,
        rms_eps: eps.ok_or("config: rms_norm_eps must be a number")? as f32,
        context: number("max_position_embeddings").unwrap_or(4096),
        // Scaled frequencies, the RoPE++ authors' included. Their files name no model type: this
        // program runs models that are laid out as Llama is.
        rope: ModelRope::from_json_like(json, &Like::model("llama"))?.only()?.rope.clone(),
        end: end.into_iter().filter_map(|id| u32::try_from(id).ok()).collect(),
    })
}

/// The vocabulary, where the configuration spells it: `symbols`, one token a character.
fn text(json: &str) -> Result<Option<Text>> {
    let values: Value = serde_json::from_str(json)?;
    values.get("symbols").and_then(Value::as_str).map(Text::characters).transpose()
}
