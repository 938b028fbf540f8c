//! Reads the rotary part of a model's `config.json`.

mod models;
mod reader;
mod section;

use serde_json::{Map, Value};

use self::{
    reader::{Keys, unknown, wrong},
    section::Section,
};
use super::{PositionAxes, RopeConfig, RopeRule};
use crate::{Error, Result};

/// Objects in which a multi-modal model keeps the configuration of its language model.
const NESTED: [&str; 3] = ["text_config", "language_config", "llm_config"];

impl RopeConfig {
    /// Reads the rotary embedding from the text of a model's `config.json`.
    ///
    /// Both styles of keys are read: `rope_theta`, `rope_scaling {rope_type or type, …}` and
    /// `partial_rotary_factor` at the top (transformers up to 4), and `rope_parameters {rope_type,
    /// rope_theta, …}` (5 on); GPT-J's `rotary_dim`, GPT-NeoX's `rotary_pct` and
    /// `rotary_emb_base`; `mrope_section`; and the `rope_config {yarn, factor}` that the RoPE++
    /// authors hang on their configuration. A language model's section inside a multi-modal one is
    /// found. The head is `qk_rope_head_dim` where there is one (latent attention), else
    /// `head_dim`, else `hidden_size / num_attention_heads`. The pairing follows `model_type`.
    ///
    /// An explicit `factor` counts as written, whatever the ratio of the two lengths, as in
    /// transformers 5 (up to 4.51 the ratio won for YaRN and LongRoPE).
    ///
    /// # Errors
    /// [`Error::UnknownRope`] for a type or key that this crate does not know,
    /// [`Error::MissingRopeKey`] for one that is needed and not there, [`Error::RopeValue`] for a
    /// value of the wrong kind or out of range, and for a model whose layer types have rotary
    /// embeddings of their own: take
    /// [`from_model_json_for_layer`](RopeConfig::from_model_json_for_layer) for those.
    pub fn from_model_json(json: &str) -> Result<Self> {
        read(&parse(json)?, None)
    }

    /// The same for one layer type of a model that distinguishes them, as
    /// `"full_attention"` and `"sliding_attention"` of Gemma 3.
    ///
    /// # Errors
    /// Those of [`from_model_json`](RopeConfig::from_model_json); [`Error::UnknownRope`] for a layer
    /// type that the model does not list.
    pub fn from_model_json_for_layer(json: &str, layer_type: &str) -> Result<Self> {
        read(&parse(json)?, Some(layer_type))
    }
}

fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json).map_err(|e| wrong("config.json", "valid JSON", e))
}

fn read(root: &Value, layer_type: Option<&str>) -> Result<RopeConfig> {
    let root = root.as_object().ok_or_else(|| wrong("config.json", "an object", root))?;
    let top = Keys { inner: root, outer: None };
    let mut model = top;
    for key in NESTED {
        if let Some(inner) = top.object(key)? {
            model = Keys { inner, outer: Some(root) };
            break;
        }
    }
    refuse_other_embeddings(model)?;

    let model_type = model.text("model_type")?.unwrap_or_default();
    let empty = Map::new();
    let choice = choose_section(model, layer_type)?;
    let section = Section::new(choice.section.unwrap_or(&empty), model)?;

    let head_dim = head_dim(&section, layer_type)?;
    let theta = match choice.theta {
        Some(theta) => theta,
        None => theta_of(&section, model_type)?,
    };
    let (rule, theta) = authors_rule(&section, theta)?;
    let config = RopeConfig {
        head_dim,
        rotary_dim: rotary_dim(&section, &rule, head_dim, model_type)?,
        theta,
        pairing: models::pairing(model_type, model.flag("rope_interleave")?),
        axes: axes(&section, model_type)?,
        rule,
    };
    // What is out of range is found where it is used; here it goes by the name of a key.
    match config.frequencies(1) {
        Ok(_) => Ok(config),
        Err(Error::Invalid { what, needed, got }) => Err(wrong(what, needed, got)),
        Err(other) => Err(other),
    }
}

/// Models that have positions of another kind.
fn refuse_other_embeddings(model: Keys) -> Result<()> {
    const KEY: &str = "position_embedding_type";
    match model.text(KEY)? {
        None | Some("rotary" | "rope") => {}
        Some(other) => return Err(unknown(KEY, other)),
    }
    if model.get("alibi").is_some_and(|alibi| alibi != &Value::Bool(false)) {
        return Err(unknown("alibi", true));
    }
    Ok(())
}

/// The section that holds for a layer type, and a θ that goes before the section's.
struct Choice<'a> {
    section: Option<&'a Map<String, Value>>,
    theta: Option<f64>,
}

fn choose_section<'a>(model: Keys<'a>, layer_type: Option<&str>) -> Result<Choice<'a>> {
    const SEVERAL: &str = "one for all layers; this model has one a layer type, name it";
    let (key, section) = match model.object("rope_parameters")? {
        Some(section) => ("rope_parameters", Some(section)),
        None => ("rope_scaling", model.object("rope_scaling")?),
    };
    if let Some(by_layer) = section.filter(|s| s.values().any(Value::is_object)) {
        let names = || by_layer.keys().cloned().collect::<Vec<_>>().join(", ");
        let layer_type = layer_type.ok_or_else(|| wrong(key, SEVERAL, names()))?;
        let section = by_layer.get(layer_type).ok_or_else(|| unknown("layer type", layer_type))?;
        let section = section
            .as_object()
            .ok_or_else(|| wrong(layer_type, "an object (is this layer rotated?)", section))?;
        return Ok(Choice { section: Some(section), theta: None });
    }
    // Gemma 3 and ModernBERT before transformers 5: a second base for the sliding layers.
    for (local, global) in
        [("rope_local_base_freq", "rope_theta"), ("local_rope_theta", "global_rope_theta")]
    {
        let Some(theta) = model.number(local)? else { continue };
        return match layer_type {
            None => Err(wrong(local, SEVERAL, theta)),
            Some("sliding_attention") => Ok(Choice { section: None, theta: Some(theta) }),
            Some("full_attention") => Ok(Choice { section, theta: model.number(global)? }),
            Some(other) => Err(unknown("layer type", other)),
        };
    }
    Ok(Choice { section, theta: None })
}

fn head_dim(section: &Section, layer_type: Option<&str>) -> Result<u32> {
    let model = section.model;
    if let Some(dim) = model.dimension("qk_rope_head_dim")? {
        return Ok(dim);
    }
    if layer_type == Some("full_attention")
        && let Some(dim) = model.dimension("global_head_dim")?
    {
        return Ok(dim);
    }
    if let Some(dim) = model.dimension("head_dim")? {
        return Ok(dim);
    }
    let either = |a, b| Ok(model.dimension(a)?.or(model.dimension(b)?));
    let hidden: Option<u32> = either("hidden_size", "n_embd")?;
    let heads: Option<u32> = either("num_attention_heads", "n_head")?;
    match (hidden, heads) {
        (Some(hidden), Some(heads)) if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        (Some(hidden), Some(heads)) => {
            let got = format!("{hidden} with {heads} heads");
            Err(wrong("hidden_size", "a multiple of num_attention_heads", got))
        }
        _ => Err(section.missing("head_dim")),
    }
}

fn rotary_dim(section: &Section, rule: &RopeRule, head_dim: u32, model_type: &str) -> Result<u32> {
    let model = section.model;
    // Latent attention rotates a slice of its own; a proportional rule counts the share itself.
    if model.get("qk_rope_head_dim").is_some() || matches!(rule, RopeRule::Proportional { .. }) {
        return Ok(head_dim);
    }
    if let Some(dim) = model.dimension("rotary_dim")? {
        return Ok(dim);
    }
    let share = match section.partial_rotary_factor()? {
        Some(share) => share,
        None => match model.number("rotary_pct")? {
            Some(share) => share,
            None => models::default_partial_rotary_factor(model_type),
        },
    };
    if share > 0.0 && share <= 1.0 {
        Ok((f64::from(head_dim) * share) as u32)
    } else {
        Err(wrong("partial_rotary_factor", "above 0, at most 1", share))
    }
}

fn theta_of(section: &Section, model_type: &str) -> Result<f64> {
    if let Some(theta) = section.keys.number("rope_theta")? {
        return Ok(theta);
    }
    for key in ["rope_theta", "rotary_emb_base"] {
        if let Some(theta) = section.model.number(key)? {
            return Ok(theta);
        }
    }
    models::default_theta(model_type).ok_or_else(|| section.missing("rope_theta"))
}

/// The section's rule, or what the RoPE++ authors' `rope_config` makes of the default one: YaRN
/// over rotations, or position interpolation. `scaling_factor` multiplies θ, as their evaluation
/// code does. `imag` and `imag_mode` choose heads, not frequencies.
fn authors_rule(section: &Section, theta: f64) -> Result<(RopeRule, f64)> {
    const KNOWN: [&str; 5] = ["imag", "imag_mode", "yarn", "factor", "scaling_factor"];
    let rule = section.rule()?;
    let Some(own) = section.model.object("rope_config")? else { return Ok((rule, theta)) };
    if let Some((key, value)) = own.iter().find(|(key, _)| !KNOWN.contains(&key.as_str())) {
        return Err(unknown(key, value));
    }
    let own = Keys { inner: own, outer: None };
    let theta = theta * own.number("scaling_factor")?.unwrap_or(1.0);
    let factor = own.number("factor")?;
    let own_rule = match (own.flag("yarn")?.unwrap_or(false), factor) {
        (true, Some(factor)) => RopeRule::yarn_rotations(factor),
        (true, None) => {
            return Err(Error::MissingRopeKey {
                rope_type: "rope_config.yarn".to_owned(),
                key: "factor",
            });
        }
        (false, Some(factor)) => RopeRule::Linear { factor },
        (false, None) => return Ok((rule, theta)),
    };
    if rule == RopeRule::Default {
        Ok((own_rule, theta))
    } else {
        Err(wrong(
            "rope_config",
            "without yarn and factor beside a rope_scaling",
            section.rope_type,
        ))
    }
}

fn axes(section: &Section, model_type: &str) -> Result<PositionAxes> {
    let known = models::mrope_alternates(model_type);
    let Some(sections) = section.keys.sections("mrope_section")? else {
        // A model that is known to have streams has default sections in its code only.
        let streams = section.rope_type == "mrope" || (known.is_some() && !model_type.is_empty());
        return if streams {
            Err(section.missing("mrope_section"))
        } else {
            Ok(PositionAxes::Single)
        };
    };
    let alternates = match section.keys.flag("mrope_interleaved")? {
        Some(given) => given,
        None => known.ok_or_else(|| unknown("mrope_section of model_type", model_type))?,
    };
    Ok(if alternates {
        PositionAxes::MropeInterleaved(sections)
    } else {
        PositionAxes::MropeSectioned(sections)
    })
}
