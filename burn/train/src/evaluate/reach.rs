//! Ways to read more text than a model was trained with.

use clap::ValueEnum;
use phasor_burn::phasor::rotary::{RopeConfig, RopeRule, YarnParams};
use serde::{Deserialize, Serialize};

/// What is done about positions past the training length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Nothing.
    Full,
    /// A position sees no more than the training length.
    Sliding,
    /// Positions are squeezed into those of training.
    Linear,
    /// The base of the frequencies grows.
    Ntk,
    /// Slow pairs are squeezed, fast ones are not, scores grow.
    Yarn,
}

impl Reach {
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Sliding => "sliding",
            Self::Linear => "linear",
            Self::Ntk => "NTK",
            Self::Yarn => "YaRN",
        }
    }

    /// Whether it is about the rotation.
    pub fn stretches(self) -> bool {
        !matches!(self, Self::Full | Self::Sliding)
    }

    /// The rotation for a text so many times as long as those of training.
    pub fn rope(self, trained: &RopeConfig, times: usize, ctx: usize) -> RopeConfig {
        let factor = times as f64;
        let rule = match self {
            Self::Full | Self::Sliding => return trained.clone(),
            Self::Linear => RopeRule::Linear { factor },
            Self::Ntk => RopeRule::NtkAware { factor },
            Self::Yarn => RopeRule::Yarn(YarnParams::new(factor, ctx as u64)),
        };
        RopeConfig { rule, ..trained.clone() }
    }
}
