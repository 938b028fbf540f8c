//! Rules and position streams in words, for people.

use core::fmt::{Display, Formatter, Result};

use super::{Axial2d, PositionAxes, QueryScaling, RopeRule, YarnParams};

impl Display for RopeRule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            RopeRule::Default => write!(f, "default"),
            RopeRule::Linear { factor } => write!(f, "linear interpolation by {factor}"),
            RopeRule::NtkAware { factor } => write!(f, "NTK-aware scaling by {factor}"),
            RopeRule::Dynamic { factor, max_position_embeddings } => {
                write!(
                    f,
                    "dynamic NTK scaling by {factor} past {max_position_embeddings} positions"
                )
            }
            RopeRule::Yarn(yarn) => write!(f, "{yarn}"),
            RopeRule::YarnRotations {
                factor,
                original_max_position_embeddings: original,
                alpha,
                beta,
            } => write!(
                f,
                "YaRN by {factor} from {original} positions, linear in rotations from {alpha} to \
                 {beta}"
            ),
            RopeRule::DynamicSteps { trained_len } => {
                write!(f, "dynamic NTK scaling in steps past {trained_len} positions")
            }
            RopeRule::LongRope {
                short_factor,
                factor,
                original_max_position_embeddings: original,
                ..
            } => write!(
                f,
                "LongRoPE by {factor} from {original} positions, {} divisors for each side of it",
                short_factor.len()
            ),
            RopeRule::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            } => write!(
                f,
                "Llama 3 by {factor} from {original} positions, ramp from {low} to {high} turns"
            ),
            RopeRule::Proportional { partial_rotary_factor: share, factor } => {
                write!(f, "proportional: the first {share} of the pairs, divided by {factor}")
            }
            RopeRule::Custom { inv_freq, .. } => write!(f, "{} given frequencies", inv_freq.len()),
        }
    }
}

impl Display for YarnParams {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "YaRN by {} from {} positions, ramp from {} to {} rotations",
            self.factor, self.original_max_position_embeddings, self.beta_slow, self.beta_fast
        )?;
        if !self.truncate {
            write!(f, ", its ends not rounded")?;
        }
        Ok(())
    }
}

impl Display for PositionAxes {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let runs = |f: &mut Formatter<'_>, runs: &[u32]| {
            let runs: Vec<_> = runs.iter().map(u32::to_string).collect();
            write!(f, "{}", runs.join(", "))
        };
        match self {
            PositionAxes::Single => write!(f, "one"),
            PositionAxes::MropeSectioned(sections) => {
                write!(f, "time, height, width in runs of pairs: ")?;
                runs(f, sections)
            }
            PositionAxes::MropeInterleaved(sections) => {
                write!(f, "time, height, width by turns, pairs of each: ")?;
                runs(f, sections)
            }
            PositionAxes::Runs(sections) => {
                write!(f, "runs of pairs: ")?;
                runs(f, sections)
            }
            PositionAxes::Axial2d(Axial2d::Alternating) => {
                write!(f, "rows and columns, frequencies by turns")
            }
            PositionAxes::Axial2d(Axial2d::Blocks) => {
                write!(f, "rows and columns, with all frequencies each")
            }
        }
    }
}

impl Display for QueryScaling {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            QueryScaling::LogOfWhole { beta, length, first } => {
                write!(f, "1 + {beta} ln(1 + floor((t + {first}) / {length}))")
            }
            QueryScaling::LogRatio { length } => write!(f, "max(1, ln(t + 1) / ln {length})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_in_words() {
        let yarn = YarnParams { truncate: false, ..YarnParams::new(32.0, 4096) };
        for (rule, words) in [
            (RopeRule::Default, "default"),
            (RopeRule::Linear { factor: 8.0 }, "linear interpolation by 8"),
            (
                RopeRule::Yarn(yarn),
                "YaRN by 32 from 4096 positions, ramp from 1 to 32 rotations, its ends not rounded",
            ),
        ] {
            assert_eq!(rule.to_string(), words);
        }
        let axes = PositionAxes::MropeInterleaved([24, 20, 20]);
        assert_eq!(axes.to_string(), "time, height, width by turns, pairs of each: 24, 20, 20");
    }
}
