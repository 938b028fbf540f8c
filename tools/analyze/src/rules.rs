//! RoPE types by name, and the ones that stretch a context to compare.

use clap::ValueEnum;
use phasor::rotary::{RopeConfig, RopeRule, YarnParams};

use crate::{Args, Result};

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum Rule {
    /// Plain RoPE
    Default,
    /// Position interpolation: all frequencies over the factor
    Linear,
    /// A larger base, so that only the slowest pair is interpolated in full
    Ntk,
    /// NTK whose factor grows with the sequence; here as it is at factor times the original length
    Dynamic,
    /// YaRN as its authors and Hugging Face have it
    Yarn,
    /// YaRN as the RoPE++ authors trained with it
    YarnRotations,
    /// LongRoPE with --long-factors, else with divisors that grow by a constant ratio from 1 to the
    /// factor
    Longrope,
    /// Llama 3.1's blend by wavelength
    Llama3,
    /// Half of the pairs turn, the others stand still
    Proportional,
}

impl Rule {
    /// Its parameters, for heads of so many channels.
    pub fn of(self, args: &Args, head_dim: u32) -> RopeRule {
        let (factor, original) = (args.factor, args.original);
        let pairs = head_dim / 2;
        match self {
            Rule::Default => RopeRule::Default,
            Rule::Linear => RopeRule::Linear { factor },
            Rule::Ntk => RopeRule::NtkAware { factor },
            Rule::Dynamic => RopeRule::Dynamic { factor, max_position_embeddings: original },
            Rule::Yarn => RopeRule::Yarn(YarnParams::new(factor, original)),
            Rule::YarnRotations => RopeRule::YarnRotations {
                factor,
                original_max_position_embeddings: original,
                alpha: 1.0,
                beta: 32.0,
            },
            Rule::Longrope => {
                let growing = |i| factor.powf(f64::from(i) / f64::from(pairs.max(2) - 1));
                let given = &args.long_factors;
                let long_factor = match given.is_empty() {
                    true => (0..pairs).map(growing).collect(),
                    false => given.clone(),
                };
                RopeRule::LongRope {
                    short_factor: vec![1.0; pairs as usize],
                    long_factor,
                    factor,
                    original_max_position_embeddings: original,
                    attention_factor: None,
                    mscale: None,
                }
            }
            Rule::Llama3 => RopeRule::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: original,
            },
            Rule::Proportional => {
                RopeRule::Proportional { partial_rotary_factor: 0.5, factor: 1.0 }
            }
        }
    }

    pub fn name(self, args: &Args) -> String {
        let s = args.factor;
        match self {
            Rule::Default => "plain RoPE".into(),
            Rule::Linear => format!("linear, s = {s}"),
            Rule::Ntk => format!("NTK-aware, s = {s}"),
            Rule::Dynamic => format!("dynamic NTK, s = {s}"),
            Rule::Yarn => format!("YaRN, s = {s}"),
            Rule::YarnRotations => format!("YaRN (rotations), s = {s}"),
            Rule::Longrope => format!("LongRoPE, s = {s}"),
            Rule::Llama3 => format!("Llama 3, s = {s}"),
            Rule::Proportional => "proportional, p = 1/2".into(),
        }
    }

    /// What is compared: plain RoPE, the four ways of the question, and the one chosen.
    pub fn compared(chosen: Rule) -> Vec<Rule> {
        let mut all = vec![Rule::Default, Rule::Linear, Rule::Ntk, Rule::Yarn, Rule::Longrope];
        if !all.contains(&chosen) {
            all.push(chosen);
        }
        all
    }

    /// Frequencies of a head at the length where all stretching is in force.
    pub fn frequencies(
        self,
        args: &Args,
        head_dim: u32,
        theta: f64,
    ) -> Result<phasor::rotary::Frequencies> {
        let rule = self.of(args, head_dim);
        let config = RopeConfig { rule, ..RopeConfig::new(head_dim, theta) };
        // Above the original length, where LongRoPE changes its divisors, whatever the factor.
        let stretched = (args.original as f64 * args.factor) as u64;
        Ok(config.frequencies(stretched.max(args.original + 1))?)
    }
}
