//! The rope section itself: `rope_type` and its keys.

use serde_json::{Map, Value};

use super::reader::{Keys, unknown, wrong};
use crate::{
    Error, Result,
    rotary::{RopeRule, YarnParams},
};

/// Keys that a section may hold, whatever its type. One that is not listed may change what the
/// model computes, so that ignoring it would be wrong in silence. `finetuned` is a remark.
const KNOWN: [&str; 20] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    "mrope_section",
    "mrope_interleaved",
    "max_position_embeddings",
    "finetuned",
];

/// The rope section of one layer type, with the model's keys around it.
pub(super) struct Section<'a> {
    pub keys: Keys<'a>,
    pub model: Keys<'a>,
    pub rope_type: &'a str,
}

impl<'a> Section<'a> {
    pub(super) fn new(section: &'a Map<String, Value>, model: Keys<'a>) -> Result<Self> {
        if let Some((key, value)) = section.iter().find(|(key, _)| !KNOWN.contains(&key.as_str())) {
            return Err(unknown(key, value));
        }
        let keys = Keys { inner: section, outer: None };
        let rope_type = match keys.text("rope_type")? {
            Some(name) => name,
            None => keys.text("type")?.unwrap_or("default"),
        };
        Ok(Section { keys, model, rope_type })
    }

    pub(super) fn rule(&self) -> Result<RopeRule> {
        match self.rope_type {
            // "mrope" is the default rule with an `mrope_section`, as Qwen2-VL first named it.
            "default" | "mrope" => Ok(RopeRule::Default),
            "linear" => Ok(RopeRule::Linear { factor: self.number("factor")? }),
            "dynamic" => Ok(RopeRule::Dynamic {
                factor: self.number("factor")?,
                max_position_embeddings: self.max_positions()?,
            }),
            "yarn" => self.yarn().map(RopeRule::Yarn),
            // "su" is the name under which LongRoPE first appeared in Phi-3.
            "longrope" | "su" => self.longrope(),
            "llama3" => Ok(RopeRule::Llama3 {
                factor: self.number("factor")?,
                low_freq_factor: self.number("low_freq_factor")?,
                high_freq_factor: self.number("high_freq_factor")?,
                original_max_position_embeddings: self.original_positions()?,
            }),
            "proportional" => Ok(RopeRule::Proportional {
                partial_rotary_factor: self.partial_rotary_factor()?.unwrap_or(1.0),
                factor: self.keys.number("factor")?.unwrap_or(1.0),
            }),
            other => Err(unknown("rope_type", other)),
        }
    }

    fn yarn(&self) -> Result<YarnParams> {
        let defaults = YarnParams::new(self.number("factor")?, self.original_positions()?);
        Ok(YarnParams {
            beta_fast: self.keys.number("beta_fast")?.unwrap_or(defaults.beta_fast),
            beta_slow: self.keys.number("beta_slow")?.unwrap_or(defaults.beta_slow),
            attention_factor: self.keys.number("attention_factor")?,
            mscale: self.keys.number("mscale")?,
            mscale_all_dim: self.keys.number("mscale_all_dim")?,
            truncate: self.keys.flag("truncate")?.unwrap_or(defaults.truncate),
            ..defaults
        })
    }

    fn longrope(&self) -> Result<RopeRule> {
        let original = self.original_positions()?;
        let factor = match self.keys.number("factor")? {
            Some(factor) => factor,
            None if original == 0 => {
                return Err(wrong("original_max_position_embeddings", "at least 2", original));
            }
            None => self.max_positions()? as f64 / original as f64,
        };
        Ok(RopeRule::LongRope {
            short_factor: self.numbers("short_factor")?,
            long_factor: self.numbers("long_factor")?,
            factor,
            original_max_position_embeddings: original,
            attention_factor: self.keys.number("attention_factor")?,
        })
    }

    /// p, from the section or from the model around it.
    pub(super) fn partial_rotary_factor(&self) -> Result<Option<f64>> {
        match self.keys.number("partial_rotary_factor")? {
            None => self.model.number("partial_rotary_factor"),
            given => Ok(given),
        }
    }

    /// L0. The model's own key (Phi-3) goes before the section's, and the model's length stands in
    /// when neither is there, as in transformers 5.
    fn original_positions(&self) -> Result<u64> {
        const KEY: &str = "original_max_position_embeddings";
        for keys in [self.model, self.keys] {
            if let Some(n) = keys.whole(KEY)? {
                return Ok(n);
            }
        }
        self.model.whole("max_position_embeddings")?.ok_or_else(|| self.missing(KEY))
    }

    fn max_positions(&self) -> Result<u64> {
        const KEY: &str = "max_position_embeddings";
        for keys in [self.keys, self.model] {
            if let Some(n) = keys.whole(KEY)? {
                return Ok(n);
            }
        }
        Err(self.missing(KEY))
    }

    fn number(&self, key: &'static str) -> Result<f64> {
        self.keys.number(key)?.ok_or_else(|| self.missing(key))
    }

    fn numbers(&self, key: &'static str) -> Result<Vec<f64>> {
        self.keys.numbers(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn missing(&self, key: &'static str) -> Error {
        Error::MissingRopeKey { rope_type: self.rope_type.to_owned(), key }
    }
}
