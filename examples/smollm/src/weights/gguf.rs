//! GGUF: llama.cpp's file of quantised matrices, with the vocabulary in it.

use std::io::{Cursor, Read, Seek};
use std::path::Path;

use gguf_rs_lib::format::metadata::{Metadata, MetadataValue};
use gguf_rs_lib::reader::file_reader::{GGUFFileReader, open_gguf_file};
use phasor::rotary::{Pairing, RopeConfig};

use super::{Config, Weights, blocks};
use crate::Result;
use crate::linear::Matrix;
use crate::text::Text;

/// Hugging Face's names of tensors, and GGUF's.
const NAMES: [(&str, &str); 13] = [
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
    ("lm_head.", "output."),
    ("model.layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

pub(super) fn read(path: &Path) -> Result<Weights> {
    weights(open_gguf_file(path)?)
}

pub(super) fn parse(bytes: &[u8]) -> Result<Weights> {
    weights(GGUFFileReader::new(Cursor::new(bytes))?)
}

fn weights(mut file: GGUFFileReader<impl Read + Seek>) -> Result<Weights> {
    let config = config(file.metadata())?;
    let text = text(file.metadata())?;
    Weights::assemble(config, text, |name| {
        // `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight` here.
        let name = NAMES.iter().fold(name.to_owned(), |name, (hf, gguf)| name.replace(hf, gguf));
        let Some(info) = file.get_tensor_info(&name) else { return Ok(None) };
        let (kind, dims) = (info.tensor_type(), info.shape().dims().to_vec());
        // The fastest axis comes first.
        let (columns, rows) = match dims[..] {
            [columns] => (columns as usize, 1),
            [columns, rows] => (columns as usize, rows as usize),
            _ => return Err(format!("{name}: {} dimensions", dims.len()).into()),
        };
        let data = file.load_tensor_data(&name)?.ok_or_else(|| format!("{name}: no data"))?;
        let elements = blocks::to_f32(kind, data.as_slice(), rows * columns)
            .map_err(|why| format!("{name}: {why}"))?;
        Ok(Some(Matrix::new(columns, elements)?))
    })
}

fn config(metadata: &Metadata) -> Result<Config> {
    let missing = |key: &str| format!("the GGUF key {key} is missing, or of another type");
    let number = |key: &str| -> Result<u32> {
        let value = metadata.get_u64(key).and_then(|n| u32::try_from(n).ok());
        value.ok_or_else(|| missing(key).into())
    };
    let real = |key: &str| metadata.get_f64(key).ok_or_else(|| missing(key));
    let architecture = metadata.get_string("general.architecture").unwrap_or("unknown");
    if architecture != "llama" {
        return Err(format!("the architecture must be llama, but is {architecture}").into());
    }
    for key in ["llama.rope.scaling.type", "llama.rope.scaling.factor"] {
        if metadata.contains_key(key) {
            return Err(format!("{key}: scaled frequencies of GGUF files are not read").into());
        }
    }
    let heads = number("llama.attention.head_count")?;
    let head_dim = number("llama.attention.key_length")
        .or_else(|_| number("llama.embedding_length").map(|width| width / heads.max(1)))?;
    // llama.cpp permutes the rows of W_q and W_k of Llama models, so that pairs lie interleaved.
    // phasor rotates and caches them so: there is nothing to undo.
    let mut rope = RopeConfig::new(head_dim, real("llama.rope.freq_base").unwrap_or(1e4));
    rope.pairing = Pairing::Interleaved;
    rope.rotary_dim = number("llama.rope.dimension_count").unwrap_or(head_dim);
    let end = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
    Ok(Config {
        layers: number("llama.block_count")?,
        heads,
        kv_heads: number("llama.attention.head_count_kv").unwrap_or(heads),
        head_dim,
        rms_eps: real("llama.attention.layer_norm_rms_epsilon")? as f32,
        context: number("llama.context_length")?,
        rope,
        end: end.iter().filter_map(|key| number(key).ok()).collect(),
    })
}

/// The vocabulary, where its rules are known; without one, tokens go in and out as numbers.
fn text(metadata: &Metadata) -> Result<Option<Text>> {
    let model = metadata.get_string("tokenizer.ggml.model").unwrap_or("unknown");
    let pre = metadata.get_string("tokenizer.ggml.pre").unwrap_or("default");
    if model != "gpt2" || !["smollm", "gpt-2", "default"].contains(&pre) {
        return Ok(None);
    }
    let strings = |key: &str| -> Result<Vec<String>> {
        let list = match metadata.get(key) {
            Some(MetadataValue::Array(list)) => {
                list.iter().map(|value| value.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        list.ok_or_else(|| format!("the GGUF key {key} must be a list of strings").into())
    };
    let types = match metadata.get("tokenizer.ggml.token_type") {
        Some(MetadataValue::Array(list)) => list.iter().map(MetadataValue::as_i64).collect(),
        _ => Vec::new(),
    };
    // 1 is an ordinary token; 3 a control token, 4 one that was added.
    let special = types.iter().map(|kind| matches!(kind, Some(3 | 4)));
    let text = Text::new(
        &strings("tokenizer.ggml.tokens")?,
        &strings("tokenizer.ggml.merges")?,
        &special.collect::<Vec<_>>(),
        pre == "smollm",
        metadata.get_string("tokenizer.chat_template").map(str::to_owned),
    )?;
    Ok(Some(text))
}
