//! Models whose code comes with their weights, not with transformers. Facts from that code.

use super::row::{Extra, Row, Scale, Unrotated, half, interleaved};

const QWEN1_HEAD: &[&str] = &["kv_channels"];
const FRACTION: &[&str] = &["rotary_emb_fraction", "rope_pct", "partial_rotary_factor"];

/// Model type, hidden size, heads, `max_position_embeddings`, base; sizes are 0 where a file must
/// state them.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    half("qwen", 4096, 32, 8192, 10_000.0).head_keys(QWEN1_HEAD).base_keys(&["rotary_emb_base"]).share_keys(1.0, &["rotary_pct"]).extra(Extra::Qwen1),
    interleaved("chatglm", 0, 0, 0, 10_000.0).head_keys(QWEN1_HEAD).share(0.5).extra(Extra::ChatGlm),
    half("baichuan", 0, 0, 4096, 10_000.0).divided().extra(Extra::Baichuan),
    half("mpt", 0, 0, 0, 10_000.0).divided().extra(Extra::Mpt),
    half("stablelm_epoch", 0, 0, 4096, 10_000.0).share_keys(0.25, FRACTION),
    half("phi-msft", 0, 0, 2048, 10_000.0).channels(32),
    half("mixformer-sequential", 0, 0, 2048, 10_000.0).channels(32),
    half("RefinedWeb", 0, 0, 2048, 10_000.0).extra(Extra::Falcon),
    half("RefinedWebModel", 0, 0, 2048, 10_000.0).extra(Extra::Falcon),
    half("openelm", 0, 0, 2048, 10_000.0).base_keys(&["rope_freq_constant"]),
    half("smallthinker", 0, 0, 0, 0.0).unrotated(Unrotated::Layout),
    half("grok-1", 6144, 48, 8192, 10_000.0).scale(Scale::Stated("attn_output_multiplier", 0.088_388_347_648_318_45)),
    half("minimax_text_01", 0, 0, 0, 10_000.0).channels(0),
    half("minimax_m1", 0, 0, 0, 10_000.0).channels(0),
    half("bailing_moe", 0, 0, 0, 10_000.0).channels(0),
    half("bailing_moe_v2", 0, 0, 0, 10_000.0).channels(0),
    half("phi3_v", 3072, 32, 4096, 10_000.0).share(1.0).extra(Extra::Phi3),
    half("phi4mm", 3072, 32, 131_072, 10_000.0).share(1.0).extra(Extra::Phi3),
    half("hunyuan", 0, 0, 0, 10_000.0).head_keys(&["head_dim", "attention_head_dim"]).extra(Extra::Alpha),
    half("hf_olmo", 0, 0, 0, 10_000.0),
    // Llama under another name.
    half("internlm", 4096, 32, 2048, 10_000.0),
    half("internlm2", 4096, 32, 2048, 10_000.0),
    half("internlmxcomposer2", 4096, 32, 2048, 10_000.0),
    half("xverse", 0, 0, 0, 10_000.0),
    half("orion", 0, 0, 0, 10_000.0),
    half("aquila", 0, 0, 0, 10_000.0),
    half("Yi", 0, 0, 0, 10_000.0),
    half("yi", 0, 0, 0, 10_000.0),
    half("deepseek", 0, 0, 0, 10_000.0),
    half("arctic", 0, 0, 0, 10_000.0),
    half("minicpm", 0, 0, 0, 10_000.0),
    half("minicpmv", 0, 0, 0, 10_000.0),
    half("minicpmo", 0, 0, 0, 10_000.0),
    half("mimo", 0, 0, 0, 10_000.0),
    half("solar", 0, 0, 0, 10_000.0),
    half("deci", 0, 0, 0, 10_000.0),
    half("nemotron-nas", 0, 0, 0, 10_000.0),
    half("skywork", 0, 0, 0, 10_000.0),
    half("step3_text", 0, 0, 0, 10_000.0),
    half("dots_ocr", 0, 0, 0, 10_000.0),
    half("Emu3", 0, 0, 0, 10_000.0),
    half("llava_llama", 0, 0, 0, 10_000.0),
    half("llava_mistral", 0, 0, 0, 10_000.0),
    half("llava_qwen", 0, 0, 0, 10_000.0),
];
