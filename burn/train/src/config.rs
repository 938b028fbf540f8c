//! What a model is: its mode and sizes, as `config.json` beside its weights says them.

use std::path::Path;

use clap::ValueEnum;
use phasor_burn::Mode;
use phasor_burn::phasor::rotary::RopeConfig;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::model::Sizes;

/// How the heads of a model know positions, and which heads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Rotary position embedding, real heads.
    Rope,
    /// RoPE++ with an equal cache: twice the output heads.
    Ec,
    /// RoPE++ with equal heads: half the query and kv heads.
    Eh,
    /// RoPE with as many output heads as EC has, each with a query of its own, over the kv heads of
    /// RoPE.
    Control,
    /// ALiBi, no rotation.
    Alibi,
    /// Nothing but the causal mask.
    None,
}

impl Variant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rope => "rope",
            Self::Ec => "ec",
            Self::Eh => "eh",
            Self::Control => "control",
            Self::Alibi => "alibi",
            Self::None => "none",
        }
    }

    pub fn rotates(self) -> bool {
        !matches!(self, Self::Alibi | Self::None)
    }

    fn heads(self) -> Mode {
        match self {
            Self::Ec => Mode::Ec,
            Self::Eh => Mode::Eh,
            _ => Mode::Rope,
        }
    }
}

/// The RoPE++ authors' section of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopePp {
    imag: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    imag_mode: Option<String>,
}

/// `config.json`, with the keys of a Llama.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub model_type: String,
    pub mode: Variant,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    /// For EH, twice what is projected.
    pub num_attention_heads: usize,
    /// For EH, twice what is projected.
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub intermediate_size: usize,
    pub hidden_act: String,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    pub rope_theta: f64,
    /// Positions that it was trained with.
    pub max_position_embeddings: usize,
    pub rope_config: RopePp,
    /// The characters of the vocabulary, in order.
    pub symbols: String,
}

/// What is chosen of a model's sizes; the heads are those of RoPE.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: Option<usize>,
    pub mlp: Option<usize>,
    pub ctx: usize,
    pub theta: f64,
}

impl ModelConfig {
    /// A model of a mode with as many parameters as that of every other mode: the width of the MLP
    /// makes up for what attention takes.
    ///
    /// # Errors
    /// Where heads and widths do not fit each other.
    pub fn new(mode: Variant, chosen: &Chosen, symbols: String) -> Result<Self> {
        let Chosen { layers, hidden, heads, kv_heads, mlp, ctx, theta } = *chosen;
        if layers == 0 || heads == 0 || ctx == 0 || !hidden.is_multiple_of(heads) {
            return Err(format!(
                "{layers} layers of {hidden} channels with {heads} heads and {ctx} positions: none \
                 may be 0, and the heads have to divide the channels"
            )
            .into());
        }
        let head_dim = hidden / heads;
        if !head_dim.is_multiple_of(8) {
            return Err(format!(
                "{head_dim} channels a head ({hidden} of --hidden over {heads} of --heads): a \
                 multiple of 8 is needed"
            )
            .into());
        }
        let kv_heads = kv_heads.unwrap_or(heads);
        // In units of hidden × D parameters: queries, keys, values, outputs.
        let plain = 2 * heads + 2 * kv_heads;
        let (attention, q_heads) = match mode {
            Variant::Rope | Variant::Alibi | Variant::None => (plain, heads),
            Variant::Ec => (plain + heads, heads),
            Variant::Eh => (heads / 2 + kv_heads + heads, heads),
            Variant::Control => (plain + 2 * heads, 2 * heads),
        };
        // As SwiGLU is usually sized: 8/3 of the width, up to a whole 32.
        let wanted = mlp.unwrap_or((8 * hidden).div_ceil(3).next_multiple_of(32)) as f64;
        let more = (attention as f64 - plain as f64) * head_dim as f64 / 3.0;
        let width = (wanted - more).round();
        if width < 1.0 {
            return Err(format!(
                "an MLP of {wanted} has no room for the attention of {}: {more:.0} wider is needed",
                mode.name()
            )
            .into());
        }
        let imag_mode = match mode {
            Variant::Ec => Some("imag2".to_owned()),
            Variant::Eh => Some("imag1".to_owned()),
            _ => None,
        };
        Ok(Self {
            model_type: "llama".to_owned(),
            mode,
            vocab_size: symbols.chars().count(),
            hidden_size: hidden,
            num_hidden_layers: layers,
            num_attention_heads: q_heads,
            num_key_value_heads: kv_heads,
            head_dim,
            intermediate_size: width as usize,
            hidden_act: "silu".to_owned(),
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_theta: theta,
            max_position_embeddings: ctx,
            rope_config: RopePp { imag: imag_mode.is_some(), imag_mode },
            symbols,
        })
    }

    /// # Errors
    /// Where the file cannot be read or is no such configuration.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        Ok(serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?)
    }

    /// The rotation, as phasor reads it off the configuration.
    ///
    /// # Errors
    /// For a configuration that phasor does not take.
    pub fn rope(&self) -> Result<RopeConfig> {
        Ok(RopeConfig::from_model_json(&serde_json::to_string(self)?)?)
    }

    /// The sizes, with tables for so many positions.
    pub fn sizes(&self, positions: usize) -> Sizes {
        Sizes {
            vocabulary: self.vocab_size,
            width: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            mlp: self.intermediate_size,
            mode: self.mode.heads(),
            norm_eps: self.rms_norm_eps,
            tied: self.tie_word_embeddings,
            positions,
            rotary: self.mode.rotates(),
            alibi: self.mode == Variant::Alibi,
            window: None,
        }
    }

    /// Bytes of K and V in f16 that a token leaves in the cache of all layers.
    pub fn cache_bytes(&self) -> usize {
        let share = if self.mode == Variant::Eh { 2 } else { 1 };
        let kv_heads = self.num_key_value_heads / share;
        2 * 2 * kv_heads * self.head_dim * self.num_hidden_layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen() -> Chosen {
        Chosen { layers: 3, hidden: 128, heads: 4, kv_heads: None, mlp: None, ctx: 128, theta: 1e4 }
    }

    #[test]
    fn every_mode_has_as_many_parameters() {
        for (mode, width) in [
            (Variant::Rope, 352),
            (Variant::Eh, 416),
            (Variant::Ec, 309),
            (Variant::Control, 267),
            (Variant::Alibi, 352),
        ] {
            let config = ModelConfig::new(mode, &chosen(), "ab".to_owned()).unwrap();
            assert_eq!(config.intermediate_size, width, "{mode:?}");
        }
    }

    #[test]
    fn phasor_reads_the_rotation() {
        let config = ModelConfig::new(Variant::Ec, &chosen(), "ab".to_owned()).unwrap();
        assert_eq!(config.rope().unwrap(), RopeConfig::new(32, 1e4));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let refused = |chosen| ModelConfig::new(Variant::Control, &chosen, String::new()).is_err();
        assert!(refused(Chosen { heads: 3, ..chosen() }));
        assert!(refused(Chosen { heads: 32, ..chosen() }));
        assert!(refused(Chosen { mlp: Some(80), ..chosen() }));
    }
}
