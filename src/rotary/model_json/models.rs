//! What a configuration leaves to the model's code: pairing, M-RoPE order, and old defaults.
//! Facts from transformers 5.23.0 and the models' own code.

use crate::rotary::Pairing;

/// Models whose weights are laid out for interleaved pairs.
const INTERLEAVED: [&str; 20] = [
    "blt",
    "codegen",
    "cohere",
    "cohere2",
    "cohere2_moe",
    "ernie4_5",
    "ernie4_5_moe",
    "ernie4_5_vl_moe_text",
    "glm",
    "glm4",
    "glm4v",
    "glm4v_text",
    "glm_ocr",
    "glm_ocr_text",
    "gptj",
    "helium",
    "llama4",
    "llama4_text",
    "moonshine",
    "roformer",
];

/// Multi-head latent attention: read interleaved, written half-split, unless `rope_interleave` is
/// false.
const INTERLEAVED_TO_HALF: [&str; 10] = [
    "axk1",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "kimi_k2",
    "longcat_flash",
    "mistral4",
    "youtu",
];

/// Models with `mrope_section` whose sections are runs.
const MROPE_SECTIONED: [&str; 12] = [
    "glm4v",
    "glm4v_moe",
    "glm4v_moe_text",
    "glm4v_text",
    "glm_ocr",
    "glm_ocr_text",
    "paddleocr_vl",
    "paddleocr_vl_text",
    "qwen2_5_vl",
    "qwen2_5_vl_text",
    "qwen2_vl",
    "qwen2_vl_text",
];

/// Models with `mrope_section` whose streams alternate.
const MROPE_INTERLEAVED: [&str; 9] = [
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_omni_moe_text",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_vl_moe_text",
    "qwen3_vl_text",
];

/// Models whose configurations may lack a base because it is 10000 in their code (Llama 1 and 2,
/// GPT-J …). Any other must state it: bases in use go from 10^2 to 10^8.
const BASE_10000: [&str; 9] =
    ["codegen", "falcon", "gpt_neox", "gptj", "llama", "mistral", "phi", "roformer", "stablelm"];

pub(super) fn pairing(model_type: &str, rope_interleave: Option<bool>) -> Pairing {
    match rope_interleave {
        Some(true) => Pairing::InterleavedToHalf,
        None if INTERLEAVED_TO_HALF.contains(&model_type) => Pairing::InterleavedToHalf,
        _ if INTERLEAVED.contains(&model_type) => Pairing::Interleaved,
        _ => Pairing::Half,
    }
}

/// Whether the streams of M-RoPE alternate; `None` for a model that is not known to do either. A
/// configuration without a model type has runs, as the paper has.
pub(super) fn mrope_alternates(model_type: &str) -> Option<bool> {
    if model_type.is_empty() || MROPE_SECTIONED.contains(&model_type) {
        Some(false)
    } else {
        MROPE_INTERLEAVED.contains(&model_type).then_some(true)
    }
}

pub(super) fn default_theta(model_type: &str) -> Option<f64> {
    BASE_10000.contains(&model_type).then_some(10_000.0)
}

/// Rotated share of the head where the configuration may leave it out.
pub(super) fn default_partial_rotary_factor(model_type: &str) -> f64 {
    match model_type {
        "glm" | "glm4" | "glm4_moe" | "glm4v_moe_text" | "nemotron" | "persimmon" | "phi"
        | "recurrent_gemma" | "bamba" => 0.5,
        "gpt_neox" | "stablelm" | "qwen3_next" | "qwen3_5" | "qwen3_5_text" | "qwen3_5_moe"
        | "qwen3_5_moe_text" => 0.25,
        "moonshine" => 0.9,
        _ => 1.0,
    }
}
