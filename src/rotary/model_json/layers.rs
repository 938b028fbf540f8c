//! The kinds of layers of a model, and the rope section of each.

use serde_json::{Map, Value};

use super::{
    locate::Language,
    reader::{Keys, unknown, wrong},
    section,
    table::{Kind, Layers, Unrotated},
};
use crate::{Error, Result};

type Object = Map<String, Value>;

/// A kind of layer that is rotated, before its section is read.
pub(super) struct Plan {
    /// "" where all layers are alike.
    pub(super) name: String,
    pub(super) section: Object,
    pub(super) kind: Option<&'static Kind>,
    /// `per_layer_config` of these layers.
    pub(super) instead: Object,
}

/// All kinds of layers.
#[derive(Default)]
pub(super) struct Plans {
    pub(super) rotated: Vec<Plan>,
    pub(super) unrotated_kinds: Vec<String>,
    pub(super) unrotated_layers: Vec<u32>,
}

const FULL: &str = "full_attention";
const SCALING: &str = "rope_scaling";
const PARAMETERS: &str = "rope_parameters";

impl Plans {
    pub(super) fn of(language: &Language) -> Result<Self> {
        let mut plans = Plans::default();
        match language.row.layers {
            _ if nested(language)?.is_some() => plans.read_sections(language)?,
            Layers::Same => plans.one(language, flat(language)?)?,
            Layers::Kinds(kinds) => plans.read_flat_keys(language, kinds)?,
            Layers::BaseOfEach => plans.base_of_each(language)?,
            Layers::ZeroOfEach => plans.zero_of_each(language)?,
            Layers::Scaled => plans.scaled(language)?,
            Layers::Lists => plans.lists(language)?,
        }
        plans.without_rotation(language)?;
        Ok(plans)
    }

    fn one(&mut self, language: &Language, section: Object) -> Result<()> {
        self.push(language, "", section, None)
    }

    fn push(
        &mut self,
        language: &Language,
        name: &str,
        section: Object,
        kind: Option<&'static Kind>,
    ) -> Result<()> {
        let instead = per_layer(language, name)?;
        self.rotated.push(Plan { name: name.to_owned(), section, kind, instead });
        Ok(())
    }

    /// A section for each kind, in `rope_parameters` (or `rope_scaling`).
    fn read_sections(&mut self, language: &Language) -> Result<()> {
        let Some((key, sections)) = nested(language)? else { return Ok(()) };
        let kinds = match language.row.layers {
            Layers::Kinds(kinds) => kinds,
            _ => &[],
        };
        for (name, section) in sections {
            let kind = kinds.iter().find(|kind| kind.name == name);
            let known = kinds.is_empty() || kind.is_some();
            match section {
                Value::Object(section) if known => {
                    self.push(language, name, section.clone(), kind)?;
                }
                Value::Null if kind.is_some_and(|kind| !kind.base_keys.is_empty()) => {}
                Value::Null if name != "rope_theta" => self.unrotated_kinds.push(name.clone()),
                // What a class leaves there when it converts a flat section.
                Value::String(rule) if name == "rope_type" && rule == "default" => {}
                other => return Err(unknown(&format!("{key}.{name}"), other)),
            }
        }
        let listed = language.keys.texts("layer_types")?;
        for kind in kinds {
            let there = |name: &String| name == kind.name;
            if self.rotated.iter().map(|plan| &plan.name).chain(&self.unrotated_kinds).any(there) {
                continue;
            }
            if !kind.base_keys.is_empty() && language.defaults {
                let section = self.flat_section_of(language, kind)?;
                self.push(language, kind.name, section, Some(kind))?;
            } else if listed.as_ref().is_some_and(|list| list.contains(&kind.name)) {
                return Err(wrong(key, "with a section for every kind in layer_types", kind.name));
            }
        }
        if let Some(scaling) = flat_scaling(language, kinds)? {
            for plan in self.rotated.iter_mut().filter(|p| p.kind.is_some_and(|k| k.scaled)) {
                plan.section.extend(scaling.clone());
            }
        }
        Ok(())
    }

    /// Flat keys of a model with several kinds of layers.
    fn read_flat_keys(&mut self, language: &Language, kinds: &'static [Kind]) -> Result<()> {
        const NEEDED: &str = "one section a kind of layer";
        let keys = language.keys;
        if let Some(flat) = keys.object(PARAMETERS)?.filter(|section| !section.is_empty()) {
            return Err(wrong(PARAMETERS, NEEDED, Value::Object(flat.clone())));
        }
        let scaling = flat_scaling(language, kinds)?;
        for kind in kinds {
            let mut section = self.flat_section_of(language, kind)?;
            if let Some(scaling) = scaling.filter(|_| kind.scaled) {
                section.extend(scaling.clone());
            }
            self.push(language, kind.name, section, Some(kind))?;
        }
        Ok(())
    }

    fn flat_section_of(&self, language: &Language, kind: &Kind) -> Result<Object> {
        let mut section = match language.defaults {
            true => own_section(kind.section)?,
            false => Object::new(),
        };
        if let Some(base) = kind.base_keys.iter().find_map(|key| language.keys.get(key)) {
            section.insert("rope_theta".to_owned(), base.clone());
        }
        Ok(section)
    }

    /// A base for each layer, 0 for none.
    fn base_of_each(&mut self, language: &Language) -> Result<()> {
        let section = flat(language)?;
        let Some(bases) = language.keys.numbers("layer_rope_theta")? else {
            return self.one(language, section);
        };
        let mut distinct: Vec<f64> = Vec::new();
        for (layer, &base) in (0..).zip(&bases) {
            if base == 0.0 {
                self.unrotated_layers.push(layer);
            } else if !distinct.contains(&base) {
                distinct.push(base);
            }
        }
        let types = language.keys.texts("layer_types")?.unwrap_or_default();
        for &base in &distinct {
            let with = |base| Object::from_iter([("rope_theta".to_owned(), Value::from(base))]);
            let mut section = section.clone();
            section.extend(with(base));
            let name = match distinct.len() {
                1 => String::new(),
                _ => kind_of_base(base, &bases, &types),
            };
            self.push(language, &name, section, None)?;
        }
        if distinct.is_empty() {
            return Err(Error::NotRotary {
                model_type: language.model_type.to_owned(),
                reason: "layer_rope_theta is 0 for every layer",
            });
        }
        Ok(())
    }

    /// One section; layers with a 0 in the list are not rotated. By default those are the full
    /// ones.
    fn zero_of_each(&mut self, language: &Language) -> Result<()> {
        match language.keys.numbers("layer_rope_theta")? {
            Some(bases) => {
                let zeros = (0..).zip(&bases).filter(|(_, base)| **base == 0.0);
                self.unrotated_layers.extend(zeros.map(|(layer, _)| layer));
            }
            None => self.unrotated_kinds.push(FULL.to_owned()),
        }
        self.one(language, flat(language)?)
    }

    /// The section's rule holds for `rope_scaling_layers`; the others keep the default one.
    fn scaled(&mut self, language: &Language) -> Result<()> {
        let section = flat(language)?;
        let plain = matches!(rule_name(&section), None | Some("default"));
        let layers = language.keys.numbers("rope_scaling_layers")?;
        let count = language.keys.whole("num_hidden_layers")?;
        let all = layers.is_none_or(|layers| Some(layers.len() as u64) == count);
        if plain || all {
            return self.one(language, section);
        }
        let base = section.get("rope_theta").map(|base| ("rope_theta".to_owned(), base.clone()));
        self.push(language, "unscaled", Object::from_iter(base), None)?;
        self.push(language, "scaled", section, None)
    }

    /// Step-3.5: bases and shares may be lists, an entry a layer; the rule is of the full layers.
    fn lists(&mut self, language: &Language) -> Result<()> {
        let keys = language.keys;
        if let Some(flat) = keys.object(PARAMETERS)?.filter(|section| !section.is_empty()) {
            return Err(wrong(
                PARAMETERS,
                "one section a kind of layer",
                Value::from(flat.clone()),
            ));
        }
        if keys.get("use_rope_layers").is_some_and(|list| list != &Value::Array(Vec::new())) {
            return Err(unknown("use_rope_layers", Value::from("a list")));
        }
        let only = keys.texts("yarn_only_types")?;
        if only.as_ref().is_some_and(|only| *only != [FULL]) {
            return Err(wrong("yarn_only_types", "full_attention alone", format!("{only:?}")));
        }
        let types = keys.texts("layer_types")?.unwrap_or_else(|| vec![FULL]);
        let mut seen: Vec<&str> = Vec::new();
        for (layer, &name) in types.iter().enumerate() {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let mut section = Object::new();
            for (key, list) in
                [("rope_theta", "rope_theta"), ("partial_rotary_factor", "partial_rotary_factors")]
            {
                let value = match keys.get(list) {
                    Some(Value::Array(list)) => list.get(layer),
                    other => other,
                };
                section.extend(value.map(|value| (key.to_owned(), value.clone())));
            }
            if name == FULL
                && let Some(scaling) = keys.object(SCALING)?
            {
                section.extend(scaling.clone());
            }
            self.push(language, name, section, None)?;
        }
        Ok(())
    }

    /// Layers that the model does not rotate.
    fn without_rotation(&mut self, language: &Language) -> Result<()> {
        let keys = language.keys;
        let zeros = |flags: Vec<bool>| (0..).zip(flags).filter(|(_, f)| !f).map(|(i, _)| i);
        match language.row.unrotated {
            Unrotated::Never => {}
            Unrotated::Kind(kind) => self.drop_kind(kind),
            Unrotated::KindBesideWindow(kind) => {
                if keys.get("sliding_window").is_some()
                    || (language.defaults && !keys.object.contains_key("sliding_window"))
                {
                    self.drop_kind(kind);
                }
            }
            Unrotated::Listed => match keys.flags("no_rope_layers")?.filter(|f| !f.is_empty()) {
                Some(flags) => self.unrotated_layers.extend(zeros(flags)),
                None => {
                    let every = keys.whole("no_rope_layer_interval")?.unwrap_or(4).max(1);
                    let layers = keys.whole("num_hidden_layers")?.unwrap_or(0).min(1 << 16);
                    let last = (1..=layers).filter(|n| n % every == 0);
                    self.unrotated_layers.extend(last.map(|n| n as u32 - 1));
                }
            },
            Unrotated::Layout => {
                self.unrotated_layers.extend(zeros(keys.flags("rope_layout")?.unwrap_or_default()));
            }
        }
        Ok(())
    }

    fn drop_kind(&mut self, kind: &str) {
        if !self.unrotated_kinds.iter().any(|name| name == kind)
            && !self.rotated.iter().any(|plan| plan.name == kind)
        {
            self.unrotated_kinds.push(kind.to_owned());
        }
    }
}

/// What a flat `rope_scaling` adds to the kinds that it holds for; refused where it holds for none.
fn flat_scaling<'a>(language: &Language<'a>, kinds: &[Kind]) -> Result<Option<&'a Object>> {
    let scaling = language.keys.object(SCALING)?;
    match scaling.filter(|s| !s.is_empty() && !s.values().any(Value::is_object)) {
        Some(scaling) if !kinds.iter().any(|kind| kind.scaled) => {
            let needed = "one section a kind of layer";
            Err(wrong(SCALING, needed, Value::Object(scaling.clone())))
        }
        Some(scaling) => section::check_type(scaling).map(|()| Some(scaling)),
        None => Ok(None),
    }
}

/// Sections by kind, and the key that holds them. `rope_scaling` takes the place of
/// `rope_parameters`, as in transformers.
fn nested<'a>(language: &Language<'a>) -> Result<Option<(&'static str, &'a Object)>> {
    for key in [SCALING, PARAMETERS] {
        let section = language.keys.object(key)?.filter(|section| !section.is_empty());
        if let Some(section) = section {
            if section.values().any(Value::is_object) {
                return Ok(Some((key, section)));
            }
            if !matches!(language.row.layers, Layers::Kinds(_)) {
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// The one section for all layers.
fn flat(language: &Language) -> Result<Object> {
    let keys = language.keys;
    let given = |key| Ok::<_, Error>(keys.object(key)?.filter(|section| !section.is_empty()));
    match (given(SCALING)?, given(PARAMETERS)?) {
        (None, Some(section)) => Ok(section.clone()),
        (Some(section), None) => Ok(section.clone()),
        (Some(section), Some(beside)) => {
            // It replaces the other, which is silent about a base only if both mean the same one.
            for key in ["rope_theta", "partial_rotary_factor"] {
                let lost = beside.get(key).filter(|value| !value.is_null());
                let stated = section.get(key).or_else(|| keys.get(key));
                if lost.is_some() && stated.is_none() {
                    let needed = "with all that rope_parameters has, since it takes its place";
                    return Err(wrong(SCALING, needed, format!("without {key}")));
                }
            }
            Ok(section.clone())
        }
        (None, None) if language.defaults => own_section(language.row.section),
        (None, None) => Ok(Object::new()),
    }
}

fn own_section(json: &str) -> Result<Object> {
    match json {
        "" => Ok(Object::new()),
        json => serde_json::from_str(json).map_err(|e| wrong("the class's section", "JSON", e)),
    }
}

fn rule_name(section: &Object) -> Option<&str> {
    let text = |key| section.get(key).and_then(Value::as_str);
    text("rope_type").or_else(|| text("type"))
}

/// The layer type that has this base and no other, or the base itself.
fn kind_of_base(base: f64, bases: &[f64], types: &[&str]) -> String {
    let with: Vec<_> = bases.iter().zip(types).filter(|(b, _)| **b == base).collect();
    let name = with.first().map(|(_, name)| **name);
    let alone = |name| bases.iter().zip(types).all(|(b, t)| *b == base || *b == 0.0 || *t != name);
    match name {
        Some(name) if with.iter().all(|(_, t)| **t == name) && alone(name) => name.to_owned(),
        _ => format!("rope_theta {base}"),
    }
}

/// What `per_layer_config` says of the layers of a kind, where it is the same for all of them.
fn per_layer(language: &Language, kind: &str) -> Result<Object> {
    const KEY: &str = "per_layer_config";
    const BEARING: [&str; 3] = ["head_dim", "qk_rope_head_dim", "qk_nope_head_dim"];
    let Some(config) = language.keys.object(KEY)? else { return Ok(Object::new()) };
    let types = language.keys.texts("layer_types")?.unwrap_or_default();
    let count = language.keys.whole("num_hidden_layers")?.unwrap_or(0).max(types.len() as u64);
    let mut common: Option<Object> = None;
    for layer in 0..count.min(1 << 16) as usize {
        if !kind.is_empty() && types.get(layer).is_some_and(|name| *name != kind) {
            continue;
        }
        let found = config.iter().find(|(key, _)| key.parse() == Ok(layer));
        let own = found.and_then(|(_, value)| value.as_object());
        let own: Object = own
            .into_iter()
            .flatten()
            .filter(|(key, _)| BEARING.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        match &common {
            None => common = Some(own),
            Some(common) if *common == own => {}
            Some(_) => {
                let needed = "the same head for all layers of a kind";
                return Err(wrong(KEY, needed, format!("layer {layer} differs")));
            }
        }
    }
    Ok(common.unwrap_or_default())
}

/// Keys with what the layers of a plan have instead.
pub(super) fn keys_of<'a>(language: &Language<'a>, plan: &'a Plan) -> Keys<'a> {
    Keys { instead: Some(&plan.instead), ..language.keys }
}
