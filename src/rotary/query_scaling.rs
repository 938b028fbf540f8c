//! Factors that some models put on the query by its position.

/// A factor that the query at a position is multiplied by, so that attention stays sharp over long
/// contexts. It is a number a row of Q, hence a softmax scale that changes with the position.
///
/// There are two ways to apply it, both exact:
///
/// - multiply the rows of Q by [`at`](QueryScaling::at), before the rotation or after it (a turn
///   does not change lengths). This also serves layers and channels that are not rotated.
/// - where the whole head is rotated, put it into the table:
///   [`Frequencies::with_query_scaling`](super::Frequencies::with_query_scaling). Every kernel that
///   turns the query then scales it at no cost, and keys are left alone.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum QueryScaling {
    /// 1 + β·ln(1 + ⌊(t + first)/L⌋) at position t: Llama 4's `attn_temperature_tuning`, on the
    /// layers that are not rotated, with `first` 1; Ministral 3's and Mistral 4's
    /// `llama_4_scaling_beta`, on all layers, with `first` 0.
    LogOfWhole {
        /// β.
        beta: f64,
        /// L > 0, in positions.
        length: u64,
        /// Added to the position: 1 where the model counts from 1.
        first: u32,
    },
    /// ln(t + 1)/ln L where t + 1 > L, else 1: the `use_logn_attn` of Qwen (the first).
    LogRatio {
        /// L > 1, in positions.
        length: u64,
    },
}

impl QueryScaling {
    /// The factor of the query at `position`. 1 where the parameters are out of range.
    pub fn at(self, position: u32) -> f64 {
        let t = u64::from(position);
        match self {
            QueryScaling::LogOfWhole { beta, length, first } => {
                let whole = (t + u64::from(first)).checked_div(length).unwrap_or(0);
                1.0 + beta * (1.0 + whole as f64).ln()
            }
            QueryScaling::LogRatio { length } if length > 1 && t + 1 > length => {
                ((t + 1) as f64).ln() / (length as f64).ln()
            }
            QueryScaling::LogRatio { .. } => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Result,
        rotary::{PositionAxes, RopeConfig},
    };

    #[test]
    fn the_models_own_numbers() {
        let scout = QueryScaling::LogOfWhole { beta: 0.1, length: 8192, first: 1 };
        assert_eq!(scout.at(8190), 1.0);
        assert_eq!(scout.at(8191), 1.0 + 0.1 * 2f64.ln());
        let ministral = QueryScaling::LogOfWhole { beta: 0.1, length: 16384, first: 0 };
        assert_eq!(ministral.at(16383), 1.0);
        assert_eq!(ministral.at(3 * 16384), 1.0 + 0.1 * 4f64.ln());
        let qwen = QueryScaling::LogRatio { length: 8192 };
        assert_eq!((qwen.at(8191), qwen.at(0)), (1.0, 1.0));
        assert!((qwen.at(8192 * 8192 - 1) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_table_scales_queries_and_leaves_keys() -> Result<()> {
        let config = RopeConfig::new(8, 10_000.0);
        let scaling = QueryScaling::LogOfWhole { beta: 0.5, length: 4, first: 0 };
        let plain = config.table(9, 9)?;
        let scaled = config.frequencies(9)?.with_query_scaling(scaling).table(9)?;
        assert_eq!((plain.planes(), scaled.planes()), (1, 2));
        let (queries, keys) = scaled.entries().split_at(plain.entries().len());
        assert_eq!(keys, plain.entries());
        for (i, (q, k)) in queries.iter().zip(keys).enumerate() {
            let factor = scaling.at(i as u32 / 4);
            for (q, k) in q.iter().zip(k) {
                assert!((f64::from(*q) - factor * f64::from(*k)).abs() <= 1.2e-7, "entry {i}");
            }
        }
        let streams = RopeConfig { axes: PositionAxes::MropeSectioned([2, 1, 1]), ..config };
        assert!(streams.frequencies(9)?.with_query_scaling(scaling).table(9).is_err());
        Ok(())
    }
}
