//! What a training run is made of.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::config::{Chosen, Variant};
use crate::optimizer::AdamW;

/// How the learning rate goes after warming up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Half a cosine down to a tenth.
    Cosine,
    /// Stays for four fifths of the steps, then falls to 0 in a line.
    Linear,
}

/// Everything that a run's numbers depend on.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
pub struct Settings {
    /// How the heads know positions.
    #[arg(long, value_enum, default_value_t = Variant::Rope)]
    pub mode: Variant,
    /// A text file, whose last tenth is held out, or a folder with train.txt and held-out.txt; a
    /// small text is built in.
    #[arg(long, value_name = "PATH")]
    pub text: Option<PathBuf>,
    /// Characters of a sequence.
    #[arg(long, default_value_t = 128)]
    pub ctx: usize,
    #[arg(long, default_value_t = 3)]
    pub layers: usize,
    /// Channels.
    #[arg(long, default_value_t = 128)]
    pub hidden: usize,
    /// Query heads of RoPE; the other modes follow.
    #[arg(long, default_value_t = 4)]
    pub heads: usize,
    /// Heads of k and v of RoPE; as many as --heads unless given.
    #[arg(long)]
    pub kv_heads: Option<usize>,
    /// Width of RoPE's MLP, 8/3 of --hidden unless given; the others' make parameters equal.
    #[arg(long)]
    pub mlp: Option<usize>,
    /// Base of the frequencies.
    #[arg(long, default_value_t = 10000.0)]
    pub theta: f64,
    #[arg(long, default_value_t = 1400)]
    pub steps: usize,
    /// Sequences of a step.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// The largest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    pub lr: f64,
    /// Steps in which it rises.
    #[arg(long, default_value_t = 100)]
    pub warmup: usize,
    #[arg(long, value_enum, default_value_t = Schedule::Linear)]
    pub schedule: Schedule,
    #[arg(long, default_value_t = 0.1)]
    pub weight_decay: f64,
    #[arg(long, default_value_t = 0.9)]
    pub beta1: f64,
    #[arg(long, default_value_t = 0.95)]
    pub beta2: f64,
    /// The largest norm of a gradient.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f64,
    /// Of the first weights and of the order of the text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Settings {
    pub fn chosen(&self) -> Chosen {
        Chosen {
            layers: self.layers,
            hidden: self.hidden,
            heads: self.heads,
            kv_heads: self.kv_heads,
            mlp: self.mlp,
            ctx: self.ctx,
            theta: self.theta,
        }
    }

    pub fn optimizer(&self) -> AdamW {
        AdamW {
            betas: [self.beta1, self.beta2],
            eps: 1e-8,
            weight_decay: self.weight_decay,
            clip: Some(self.clip),
        }
    }

    /// The learning rate of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        let warm = ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0);
        let share = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Cosine => {
                let length = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let gone = step.saturating_sub(self.warmup) as f64 / length;
                0.55 + 0.45 * (core::f64::consts::PI * gone).cos()
            }
            Schedule::Linear => {
                let fall = (self.steps as f64 / 5.0).max(1.0);
                ((self.steps - step.min(self.steps)) as f64 / fall).min(1.0)
            }
        };
        self.lr * warm * share
    }

    /// What differs from another run's, as flags and values.
    pub fn differs(&self, other: &Self) -> Vec<String> {
        let values = |settings: &Self| match serde_json::to_value(settings) {
            Ok(serde_json::Value::Object(values)) => values,
            _ => serde_json::Map::new(),
        };
        let others = values(other);
        let own = values(self).into_iter();
        own.filter(|(key, value)| others.get(key) != Some(value))
            .map(|(key, value)| {
                let there = others.get(&key).unwrap_or(&serde_json::Value::Null);
                format!("--{} is {there} there, {value} here", key.replace('_', "-"))
            })
            .collect()
    }
}
