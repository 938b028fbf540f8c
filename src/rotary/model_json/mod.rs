//! Reads the rotary part of a model's `config.json`.
//!
//! [`table`] says what each model type does. [`locate`] finds the language model in the file and
//! its row, [`bearing`] refuses keys that may matter and are not read, [`layers`] finds the rope
//! section of each kind of layer, [`section`] reads its rule, [`geometry`] the numbers around it,
//! [`scale`] the factor on the scores.

#[cfg(feature = "wgpu")]
mod attention;
mod bearing;
mod geometry;
mod layers;
mod like;
mod locate;
mod python;
mod reader;
mod scale;
mod section;
mod table;

use serde_json::Value;

#[cfg(feature = "wgpu")]
pub(crate) use attention::{LayerAttention, attention};
pub use like::Like;

use self::{
    layers::{Plan, Plans},
    locate::Language,
    reader::{Keys, unknown, wrong},
    section::Section,
    table::{Extra, Pairs, Streams},
};
use super::{PositionAxes, QueryScaling, RopeConfig, RopeRule};
use crate::{Error, Result, rotary::Pairing};

/// What a model's `config.json` says of its rotary embedding, and of the factors on its scores.
///
/// ```
/// use phasor::rotary::ModelRope;
///
/// # fn main() -> phasor::Result<()> {
/// let model = ModelRope::from_json(
///     r#"{"model_type": "gemma3_text", "hidden_size": 2560, "num_attention_heads": 8,
///         "head_dim": 256, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}"#,
/// )?;
/// assert_eq!(model.layer("full_attention")?.rope.theta, 1e6);
/// assert_eq!(model.layer("sliding_attention")?.rope.theta, 1e4);
/// assert_eq!(model.layer("full_attention")?.softmax_scale, Some(0.0625));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRope {
    /// Model type of the language model, whose row of the table was read.
    pub model_type: String,
    /// One entry a kind of layer that is rotated; one alone where all are alike.
    pub layers: Vec<LayerRope>,
    /// Layers that the model does not rotate, if there are such.
    pub unrotated: Option<UnrotatedLayers>,
    /// The rotation of the small attention that chooses keys for the large one ("lightning
    /// indexer"), where it differs from the large one's.
    pub indexer: Option<RopeConfig>,
}

/// The rotary embedding of one kind of layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerRope {
    /// Name in the model's `layer_types`; empty where all layers are alike.
    pub kind: String,
    /// The rotation.
    pub rope: RopeConfig,
    /// The factor on the scores, m not included; `None` where it is learned.
    pub softmax_scale: Option<f64>,
    /// The factor of the query by its position, if there is one.
    pub query_scaling: Option<QueryScaling>,
}

/// Layers without a rotation (NoPE).
#[derive(Debug, Clone, PartialEq)]
pub struct UnrotatedLayers {
    /// Kinds in the model's `layer_types`.
    pub kinds: Vec<String>,
    /// Indices, where the model lists them.
    pub layers: Vec<u32>,
    /// The factor of the query by its position, if there is one.
    pub query_scaling: Option<QueryScaling>,
}

impl ModelRope {
    /// Reads the text of a `config.json`.
    ///
    /// Read are the keys of transformers up to 4 (`rope_theta`, `rope_scaling`, … at the top) and
    /// from 5 (`rope_parameters`), also one section for each kind of layer; the spellings of
    /// other model families; a language model's configuration inside a multi-modal one; and
    /// `rope_config {yarn, factor}`, which the RoPE++ authors hang on theirs. What a file leaves
    /// out is what the model's configuration class has by default. `rope_scaling` takes the place
    /// of `rope_parameters` where both are there. Bare `NaN` and `Infinity` are let by.
    ///
    /// An explicit `factor` counts as written, whatever the ratio of the two lengths, as in
    /// transformers 5 (up to 4.51 the ratio won for YaRN and LongRoPE). For latent attention the
    /// rotation is that of the slice of `qk_rope_head_dim` channels.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] for a model type that is not in the table (see [`Like`]),
    /// [`Error::NotRotary`] for one without a rotary embedding, [`Error::UnknownRope`] for a rule
    /// that this crate does not have or a key that may bear on the rotation and is not read,
    /// [`Error::MissingRopeKey`] for a key that is needed and not there, [`Error::RopeValue`] for a
    /// value of the wrong kind or out of range.
    pub fn from_json(json: &str) -> Result<Self> {
        let root = parse(json)?;
        let root = root.as_object().ok_or_else(|| wrong("config.json", "an object", &root))?;
        read(&Language::find(root)?)
    }

    /// The same for a model whose type is not in the table, or that is not what its type says: its
    /// rotary embedding is stated to be like that of a known model.
    ///
    /// # Errors
    /// Those of [`from_json`](ModelRope::from_json).
    pub fn from_json_like(json: &str, like: &Like) -> Result<Self> {
        let root = parse(json)?;
        let root = root.as_object().ok_or_else(|| wrong("config.json", "an object", &root))?;
        let mut model = read(&Language::like(root, like)?)?;
        for layer in &mut model.layers {
            layer.rope.pairing = like.pairing.unwrap_or(layer.rope.pairing);
            layer.rope.direction = like.direction.unwrap_or(layer.rope.direction);
            check(&layer.rope)?;
        }
        Ok(model)
    }

    /// The rotary embedding of all rotated layers.
    ///
    /// # Errors
    /// [`Error::RopeValue`] where kinds of layers have rotary embeddings of their own.
    pub fn only(&self) -> Result<&LayerRope> {
        match self.layers.as_slice() {
            [layer] if layer.kind.is_empty() => Ok(layer),
            several => {
                let names: Vec<_> = several.iter().map(|layer| layer.kind.as_str()).collect();
                Err(wrong("the kind of layer", "named, one of those that differ", names.join(", ")))
            }
        }
    }

    /// The rotary embedding of the layers of a kind, as `"full_attention"` and
    /// `"sliding_attention"` of Gemma 3.
    ///
    /// # Errors
    /// [`Error::UnknownRope`] for a kind that the model does not have or does not rotate.
    pub fn layer(&self, kind: &str) -> Result<&LayerRope> {
        const NO_ATTENTION: [&str; 4] = ["linear_attention", "conv", "mamba", "recurrent"];
        if self.unrotated.iter().flat_map(|layers| &layers.kinds).any(|name| name == kind) {
            return Err(unknown("a rotation of the layer kind", kind));
        }
        match self.layers.iter().find(|layer| layer.kind == kind) {
            Some(layer) => Ok(layer),
            None => match self.layers.as_slice() {
                [all] if all.kind.is_empty() && !NO_ATTENTION.contains(&kind) => Ok(all),
                _ => Err(unknown("layer type", kind)),
            },
        }
    }
}

impl RopeConfig {
    /// Reads the rotary embedding from the text of a model's `config.json`: that of
    /// [`ModelRope::from_json`] for a model whose rotated layers are all alike.
    ///
    /// # Errors
    /// Those of [`ModelRope::from_json`] and [`ModelRope::only`]: a model whose kinds of layers
    /// differ is refused; take
    /// [`from_model_json_for_layer`](RopeConfig::from_model_json_for_layer).
    pub fn from_model_json(json: &str) -> Result<Self> {
        Ok(ModelRope::from_json(json)?.only()?.rope.clone())
    }

    /// The same for one kind of layer of a model that distinguishes them, as
    /// `"full_attention"` and `"sliding_attention"` of Gemma 3.
    ///
    /// # Errors
    /// Those of [`ModelRope::from_json`] and [`ModelRope::layer`].
    pub fn from_model_json_for_layer(json: &str, layer_type: &str) -> Result<Self> {
        Ok(ModelRope::from_json(json)?.layer(layer_type)?.rope.clone())
    }
}

fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(&python::quote_special_numbers(json))
        .map_err(|e| wrong("config.json", "valid JSON", e))
}

fn read(language: &Language) -> Result<ModelRope> {
    geometry::admit(language)?;
    bearing::check(language)?;
    let plans = Plans::of(language)?;
    let layers: Result<Vec<_>> = plans.rotated.iter().map(|plan| layer(language, plan)).collect();
    let layers = layers?;
    let unrotated = UnrotatedLayers {
        kinds: plans.unrotated_kinds,
        layers: plans.unrotated_layers,
        query_scaling: scale::unrotated_query_scaling(language)?,
    };
    let any = !unrotated.kinds.is_empty() || !unrotated.layers.is_empty();
    let first = layers.first().filter(|_| language.row.half_indexer);
    let indexer = first.map(|l| RopeConfig { pairing: Pairing::Half, ..l.rope.clone() });
    Ok(ModelRope {
        model_type: language.model_type.to_owned(),
        layers,
        unrotated: any.then_some(unrotated),
        indexer,
    })
}

fn layer(language: &Language, plan: &Plan) -> Result<LayerRope> {
    let model = layers::keys_of(language, plan);
    let section = Section::new(&plan.section, model, language)?;
    let head = geometry::head_dims(language, plan, model, &section)?;
    let theta = geometry::theta(language, &section)?;
    let (rule, theta) = authors_rule(&section, theta)?;
    let rotary_dim = geometry::rotary_dim(language, &section, &rule, &head)?;
    let rope = RopeConfig {
        head_dim: head.head_dim,
        rotary_dim,
        theta,
        pairing: pairing(language, head.slice)?,
        direction: language.row.direction,
        axes: axes(language, &section, rotary_dim / 2)?,
        rule,
    };
    check(&rope)?;
    Ok(LayerRope {
        kind: plan.name.clone(),
        softmax_scale: scale::softmax_scale(language, &section, &head)?,
        query_scaling: scale::query_scaling(language, &section)?,
        rope,
    })
}

/// What is out of range is found where it is used; here it goes by the name of a key.
fn check(rope: &RopeConfig) -> Result<()> {
    match rope.frequencies(1) {
        Ok(_) => Ok(()),
        Err(Error::Invalid { what, needed, got }) => Err(wrong(what, needed, got)),
        Err(other) => Err(other),
    }
}

fn pairing(language: &Language, slice: bool) -> Result<Pairing> {
    let keys = language.keys;
    Ok(match language.row.pairs {
        // DeepSeek-V2 without latent attention is Llama's.
        Pairs::Interleaved if language.row.extra == Extra::DeepseekV2 && !slice => Pairing::Half,
        Pairs::Interleaved => Pairing::Interleaved,
        Pairs::ToHalfUnless if keys.flag("rope_interleave")? == Some(false) => Pairing::Half,
        Pairs::ToHalf | Pairs::ToHalfUnless => Pairing::InterleavedToHalf,
        Pairs::Half
            if language.row.extra == Extra::Nomic
                && keys.flag("rotary_emb_interleaved")? == Some(true) =>
        {
            Pairing::Interleaved
        }
        Pairs::Half => Pairing::Half,
    })
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
    let own = Keys::of(own);
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

fn axes(language: &Language, section: &Section, pairs: u32) -> Result<PositionAxes> {
    const KEY: &str = "mrope_section";
    let keys = section.keys;
    let own = |sections: [u32; 3]| Some(sections).filter(|_| language.defaults);
    let (own, alternates) = match language.row.streams {
        Streams::Sectioned(sections) => (own(sections), false),
        Streams::Alternating(sections) => (own(sections), true),
        Streams::Runs => {
            let spelt = if keys.get(KEY).is_some() { KEY } else { "xdrope_section" };
            let runs = keys.sections::<4>(spelt, 1)?.ok_or_else(|| section.missing(KEY))?;
            return Ok(PositionAxes::Runs(runs));
        }
        Streams::Other => {
            return Err(unknown("position streams of", language.model_type));
        }
        Streams::One if keys.get(KEY).is_some() || section.rope_type == "mrope" => {
            return Err(unknown("mrope_section of model_type", language.model_type));
        }
        Streams::One => return Ok(PositionAxes::Single),
    };
    let given = keys.sections::<3>(KEY, 3)?;
    let sections = given.or(own).ok_or_else(|| section.missing(KEY))?;
    let stated = match keys.flag("mrope_interleaved")? {
        None => keys.flag("interleaved")?,
        stated => stated,
    };
    if !stated.unwrap_or(alternates) {
        return Ok(PositionAxes::MropeSectioned(sections));
    }
    if given.is_some() {
        return Ok(PositionAxes::MropeInterleaved(sections));
    }
    // The class's own sections go with any head: height and width have every third pair each as
    // far as theirs reach, and time has the rest.
    let [_, height, width] = sections;
    let (height, width) = (height.min((pairs + 1) / 3), width.min(pairs / 3));
    Ok(PositionAxes::MropeInterleaved([pairs - height - width, height, width]))
}
