//! The rope section itself: `rope_type` and its keys.

use serde_json::{Map, Value};

use super::{
    locate::Language,
    reader::{Keys, unknown, wrong},
    table::Extra,
};
use crate::{
    Error, Result,
    rotary::{RopeRule, YarnParams},
};

/// Keys that a section may hold, whatever its type. One that is not listed may change what the
/// model computes, so that ignoring it would be wrong in silence.
const KNOWN: [&str; 21] = [
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
    // Qwen3-Omni's spelling of the one before.
    "interleaved",
    "max_position_embeddings",
    // A remark.
    "finetuned",
];

/// Keys that only a rule other than the default one has.
const RULED: [&str; 6] =
    ["factor", "short_factor", "long_factor", "low_freq_factor", "high_freq_factor", "alpha"];

/// Keys that the library defining the model reads nowhere, though the first code of YaRN did.
const UNREAD: [&str; 2] = ["attn_factor", "extrapolation_factor"];

/// A section that has lost its type says nothing of what its numbers are for.
pub(super) fn check_type(section: &Map<String, Value>) -> Result<()> {
    let there = |keys: &[&str]| keys.iter().any(|k| section.get(*k).is_some_and(|v| !v.is_null()));
    if there(&RULED) && !there(&["rope_type", "type"]) {
        let rope_type = "any other than default".to_owned();
        return Err(Error::MissingRopeKey { rope_type, key: "rope_type" });
    }
    Ok(())
}

/// The rope section of one kind of layer, with the model's keys around it.
pub(super) struct Section<'a> {
    pub(super) keys: Keys<'a>,
    pub(super) model: Keys<'a>,
    pub(super) rope_type: &'a str,
    language: &'a Language<'a>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        section: &'a Map<String, Value>,
        model: Keys<'a>,
        language: &'a Language<'a>,
    ) -> Result<Self> {
        let extra = language.row.extra;
        let known = |key: &str| match key {
            "short_mscale" | "long_mscale" => extra == Extra::PhiMoe,
            "alpha" | "xdrope_section" => extra == Extra::Alpha,
            "llama_4_scaling_beta" => extra == Extra::ScaledQuery,
            _ => KNOWN.contains(&key) || (language.defaults && UNREAD.contains(&key)),
        };
        if let Some((key, value)) = section.iter().find(|(key, v)| !v.is_null() && !known(key)) {
            return Err(unknown(key, value));
        }
        check_type(section)?;
        let keys = Keys::of(section);
        let rope_type = match keys.text("rope_type")? {
            Some(name) => name,
            None => keys.text("type")?.unwrap_or("default"),
        };
        Ok(Section { keys, model, rope_type, language })
    }

    pub(super) fn rule(&self) -> Result<RopeRule> {
        let extra = self.language.row.extra;
        match self.rope_type {
            // HunYuan: a fixed stretch of the base under the name of another rule.
            "dynamic" | "xdrope" if extra == Extra::Alpha && self.keys.get("alpha").is_some() => {
                Ok(RopeRule::NtkAware { factor: self.number("alpha")? })
            }
            _ if self.keys.get("alpha").is_some() => {
                Err(wrong("alpha", "in a dynamic section", self.rope_type))
            }
            // "mrope" is the default rule with an `mrope_section`, as Qwen2-VL first named it.
            "default" | "mrope" => self.default_rule(),
            "linear" => Ok(RopeRule::Linear { factor: self.number("factor")? }),
            "dynamic" => Ok(RopeRule::Dynamic {
                factor: self.number("factor")?,
                max_position_embeddings: self.max_positions()?,
            }),
            "yarn" if extra == Extra::Phi3 => self.longrope(),
            // "deepseek_yarn" is the name that Sarvam's files have.
            "yarn" | "deepseek_yarn" => self.yarn().map(RopeRule::Yarn),
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

    /// The default rule, or what keys at the top make of it.
    fn default_rule(&self) -> Result<RopeRule> {
        let extra = self.language.row.extra;
        if extra == Extra::Qwen1 && self.model.flag("use_dynamic_ntk")?.unwrap_or(false) {
            let trained_len = self.model.whole("seq_length")?;
            let trained_len = trained_len.ok_or_else(|| self.missing("seq_length"))?;
            return Ok(RopeRule::DynamicSteps { trained_len });
        }
        if extra == Extra::Nomic
            && let Some(factor) = self.model.number("rotary_scaling_factor")?
        {
            let trained = self.model.whole("max_trained_positions")?;
            let max_position_embeddings =
                trained.ok_or_else(|| self.missing("max_trained_positions"))?;
            return Ok(RopeRule::Dynamic { factor, max_position_embeddings });
        }
        for key in ["rotary_scaling_factor", "rope_condense_ratio", "condense_ratio"] {
            if let Some(factor) = self.model.number(key)?.filter(|factor| *factor != 1.0) {
                return Ok(RopeRule::Linear { factor });
            }
        }
        Ok(RopeRule::Default)
    }

    fn yarn(&self) -> Result<YarnParams> {
        let defaults = YarnParams::new(self.number("factor")?, self.original_positions()?);
        let stated = |key| Ok::<_, Error>(self.keys.number(key)?.filter(|beta| *beta != 0.0));
        Ok(YarnParams {
            beta_fast: stated("beta_fast")?.unwrap_or(defaults.beta_fast),
            beta_slow: stated("beta_slow")?.unwrap_or(defaults.beta_slow),
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
        let mscale = match self.language.row.extra {
            Extra::PhiMoe => Some([self.number("short_mscale")?, self.number("long_mscale")?]),
            _ => None,
        };
        Ok(RopeRule::LongRope {
            short_factor: self.numbers("short_factor")?,
            long_factor: self.numbers("long_factor")?,
            factor,
            original_max_position_embeddings: original,
            attention_factor: self.keys.number("attention_factor")?,
            mscale,
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
    pub(super) fn original_positions(&self) -> Result<u64> {
        const KEY: &str = "original_max_position_embeddings";
        for keys in [self.model, self.keys] {
            if let Some(n) = keys.whole(KEY)? {
                return Ok(n);
            }
        }
        self.model_positions()?.ok_or_else(|| self.missing(KEY))
    }

    fn max_positions(&self) -> Result<u64> {
        const KEY: &str = "max_position_embeddings";
        match self.model_positions()? {
            Some(n) => Ok(n),
            None => self.keys.whole(KEY)?.ok_or_else(|| self.missing(KEY)),
        }
    }

    fn model_positions(&self) -> Result<Option<u64>> {
        for key in ["max_position_embeddings", "n_positions", "max_seq_len", "model_max_length"] {
            if let Some(n) = self.model.whole(key)? {
                return Ok(Some(n));
            }
        }
        Ok(Some(self.language.row.positions).filter(|&n| n > 0 && self.language.defaults))
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
