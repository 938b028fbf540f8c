//! Which keys of a configuration bear on the rotation, and are they all read?
//!
//! A key whose name speaks of positions and which no one reads may change what the model computes,
//! so it refuses the file. What is known to do nothing is listed here, with the reason.

use serde_json::Value;

use super::{
    locate::Language,
    reader::{Keys, unknown, wrong},
    table::{Extra, Head, Layers, Pairs, Row, Scale, Share, Unrotated, Wrapper},
};
use crate::{Error, Result};

/// A key with one of these in its name may bear on the rotation.
const SUSPECT: [&str; 22] = [
    "rope",
    "rotary",
    "rotate",
    "theta",
    "yarn",
    "ntk",
    "mscale",
    "alibi",
    "xpos",
    "condense",
    "logn",
    "position_embedding",
    "pos_emb",
    "position_encoding",
    "positional",
    "partial_",
    "inv_freq",
    "freq_base",
    "freq_constant",
    "freq_factor",
    "temperature_tuning",
    "max_trained_positions",
];

/// Keys that look as if they bore on the rotation and do not, and why.
const HARMLESS: [(&str, &str); 12] = [
    ("max_position_embeddings", "a length; the rules that use it ask for it"),
    ("rope_full_precision", "the precision of the angles; here they are exact"),
    ("rope_max_length", "the length of a precomputed table"),
    ("rope_dim", "a count that goes with mrope_section"),
    ("alibi_bias_max", "of the biases, which `alibi` turns on"),
    ("rotary_emb_in_fp32", "the precision of the angles"),
    ("pos_idx_in_fp32", "the precision of the angles"),
    ("use_pos_enc_for_vision", "of the vision tower"),
    ("learned_pos_emb", "of other classes; the rotary classes do not read it"),
    ("max_source_positions", "the length of a precomputed table"),
    ("theta_scale", "of other classes"),
    ("pos_emb_dropout", "training only"),
];

/// Switches that say that there is a rotation: true is no news, false is.
const ON: [&str; 7] = [
    "use_rope",
    "rope",
    "use_rotary",
    "use_rotary_emb",
    "use_rotary_embedding",
    "use_rotary_pos_emb",
    "rotary",
];

/// Switches for something else than the rotation that the table knows: false is no news, true is.
const OFF: [&str; 4] = ["rope_interleaved", "use_mrope", "rotary_value", "alibi"];

/// Shares of the head: 1 is no news to a model that does not read it.
const SHARES: [&str; 4] = ["rotary_pct", "rope_pct", "rotary_percentage", "rotary_emb_fraction"];

/// Keys of factors on the scores, which only the row that names them reads.
const SCALES: [&str; 5] = [
    "attention_multiplier",
    "query_pre_attn_scalar",
    "attn_output_multiplier",
    "attn_scale",
    "softmax_scale",
];

/// Refuses keys that may bear on the rotation and that nothing reads.
pub(super) fn check(language: &Language) -> Result<()> {
    let row = language.row;
    for (key, value) in language.keys.object.iter().filter(|(_, value)| !value.is_null()) {
        let suspect = SUSPECT.iter().any(|part| key.contains(part));
        let factor = !language.defaults && SCALES.contains(&key.as_str());
        if (suspect || factor) && !reads(row, key) && !harmless(key, value) {
            return Err(unknown(key, value));
        }
    }
    position_embedding_type(language)?;
    if language.keys.get("alibi").is_some_and(|alibi| alibi != &Value::Bool(false)) {
        return Err(unknown("alibi", true));
    }
    Ok(())
}

fn harmless(key: &str, value: &Value) -> bool {
    match key {
        "qk_rope_head_dim" => value == &Value::from(0),
        _ if ON.contains(&key) => value == &Value::Bool(true),
        _ if OFF.contains(&key) => value == &Value::Bool(false),
        _ if SHARES.contains(&key) => value.as_f64() == Some(1.0),
        _ => HARMLESS.iter().any(|(known, _)| *known == key),
    }
}

/// Whether the loader reads the key in a model of this row.
fn reads(row: &Row, key: &str) -> bool {
    let kinds = match row.layers {
        Layers::Kinds(kinds) => kinds,
        _ => &[],
    };
    match key {
        "rope_parameters"
        | "rope_scaling"
        | "rope_config"
        | "partial_rotary_factor"
        | "original_max_position_embeddings"
        | "position_embedding_type"
        | "alibi" => true,
        "rope_theta" => kinds.is_empty() || kinds.iter().any(|k| k.base_keys.contains(&key)),
        "rotary_scaling_factor" | "rope_condense_ratio" | "condense_ratio" => true,
        "rotary_dim" => {
            matches!(row.share, Share::Channels(_)) || row.extra == Extra::IgnoresRotaryDim
        }
        "rope_interleave" => matches!(row.pairs, Pairs::ToHalfUnless),
        "qk_rope_head_dim" => matches!(row.head, Head::Latent { .. }),
        "no_rope_layers" | "no_rope_layer_interval" => matches!(row.unrotated, Unrotated::Listed),
        "rope_layout" => matches!(row.unrotated, Unrotated::Layout),
        "layer_rope_theta" => matches!(row.layers, Layers::BaseOfEach | Layers::ZeroOfEach),
        "rope_scaling_layers" => matches!(row.layers, Layers::Scaled),
        "partial_rotary_factors" | "yarn_only_types" | "use_rope_layers" => {
            matches!(row.layers, Layers::Lists)
        }
        "rope_ratio" | "original_rope" | "position_encoding_2d" => row.extra == Extra::ChatGlm,
        "use_dynamic_ntk" | "use_logn_attn" => row.extra == Extra::Qwen1,
        "use_mem_rope" => row.extra == Extra::Zamba2,
        "attn_temperature_tuning" | "attn_scale" => row.extra == Extra::Llama4,
        "rotary_emb_base"
        | "rotary_emb_fraction"
        | "rotary_emb_interleaved"
        | "rotary_emb_scale_base"
        | "max_trained_positions"
            if row.extra == Extra::Nomic =>
        {
            true
        }
        "query_pre_attn_scalar" => matches!(row.scale, Scale::PreAttnScalar(_)),
        _ => {
            let stated = matches!(row.scale, Scale::Stated(own, _) if own == key);
            let share = matches!(row.share, Share::Of(_, keys) if keys.contains(&key));
            let kind = kinds.iter().any(|kind| kind.base_keys.contains(&key) || kind.latent == key);
            stated || share || kind || row.base_keys.contains(&key)
        }
    }
}

/// BERT-like classes write "absolute" whatever the model does; a class that does read the key has
/// a row that says so.
fn position_embedding_type(language: &Language) -> Result<()> {
    const KEY: &str = "position_embedding_type";
    match (language.keys.text(KEY)?, language.row.extra) {
        (Some("rotary" | "rope"), _) => Ok(()),
        (_, Extra::OnlyIfStated) => Err(Error::NotRotary {
            model_type: language.model_type.to_owned(),
            reason: "it is rotated only where position_embedding_type is rope (or rotary)",
        }),
        (None, _) => Ok(()),
        (Some("absolute"), _) if language.defaults => Ok(()),
        // Cohere's name for interleaved pairs.
        (Some("rope_gptj"), _) if matches!(language.row.pairs, Pairs::Interleaved) => Ok(()),
        (Some(other), _) => Err(unknown(KEY, other)),
    }
}

/// Refuses a key around the language model's object that its own object does not have in the same
/// way: the model's class reads the inner one, and a reader of the file the outer.
pub(super) fn same_outside(
    outer: Keys,
    inner: Keys,
    place: &'static str,
    wrapper: &Wrapper,
) -> Result<()> {
    const KEYS: [&str; 6] = [
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rotary_emb_base",
        "partial_rotary_factor",
        "rotary_pct",
    ];
    if wrapper.rotates_itself {
        return Ok(());
    }
    for key in KEYS {
        if let Some(value) = outer.get(key)
            && inner.get(key) != Some(value)
            && value.as_object().is_none_or(|object| !object.is_empty())
        {
            return Err(wrong(key, "within the language model's own object", place));
        }
    }
    Ok(())
}
