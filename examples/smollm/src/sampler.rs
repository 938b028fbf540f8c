//! Which token comes next.

use rand::distr::{Distribution as _, weighted::WeightedIndex};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::Result;

/// The largest logit and its token; the lower token of equals.
pub fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Draws from `softmax(logits / temperature)`, cut to its most probable tokens.
pub struct Sampler {
    /// 0: always the most probable token.
    temperature: f32,
    /// Tokens are kept, the most probable first, until their probabilities sum to this.
    top_p: f32,
    rng: StdRng,
}

impl Sampler {
    pub fn new(temperature: f32, top_p: f32, seed: u64) -> Result<Self> {
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(format!("the temperature must be 0 or more, but is {temperature}").into());
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("top-p must be above 0 and at most 1, but is {top_p}").into());
        }
        Ok(Self { temperature, top_p, rng: StdRng::seed_from_u64(seed) })
    }

    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        if self.temperature == 0.0 {
            return Ok(greedy(logits));
        }
        let (ids, weights) = nucleus(logits, self.temperature, self.top_p);
        Ok(ids[WeightedIndex::new(weights)?.sample(&mut self.rng)])
    }
}

/// The tokens that may be drawn, the most probable first, and their weights.
fn nucleus(logits: &[f32], temperature: f32, top_p: f32) -> (Vec<u32>, Vec<f32>) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: &f32| ((logit - largest) / temperature).exp();
    let mut tokens: Vec<(u32, f32)> = (0..).zip(logits.iter().map(weight)).collect();
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
    let wanted = top_p * tokens.iter().map(|(_, weight)| weight).sum::<f32>();
    let mut sum = 0.0;
    let kept = tokens.iter().take_while(|(_, weight)| {
        let more = sum < wanted;
        sum += weight;
        more
    });
    kept.copied().unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.5, 0.25, 0.125, 0.125, out of order.
    fn logits() -> Vec<f32> {
        [0.125f32, 0.5, 0.125, 0.25].map(f32::ln).to_vec()
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_reaches_top_p() {
        let ids = |top_p| nucleus(&logits(), 1.0, top_p).0;
        assert_eq!(ids(0.4), [1]);
        assert_eq!(ids(0.7), [1, 3]);
        assert_eq!(ids(1.0), [1, 3, 0, 2]);
        // A low temperature makes the largest one certain.
        assert_eq!(nucleus(&logits(), 0.1, 0.99).0, [1]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let draw = |seed| -> Vec<u32> {
            let mut sampler = Sampler::new(1.0, 1.0, seed).unwrap();
            (0..4000).map(|_| sampler.sample(&logits()).unwrap()).collect()
        };
        let drawn = draw(7);
        for (id, p) in [(0, 0.125), (1, 0.5), (2, 0.125), (3, 0.25)] {
            let share = drawn.iter().filter(|&&it| it == id).count() as f64 / 4000.0;
            // Five standard deviations are 0.04 at most.
            assert!((share - p).abs() < 0.04, "{id}: {share} against {p}");
        }
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
    }

    #[test]
    fn no_temperature_takes_the_largest() {
        assert_eq!(Sampler::new(0.0, 1.0, 0).unwrap().sample(&logits()).unwrap(), 1);
        assert_eq!(greedy(&[1.0, 3.0, 3.0]), 1);
        assert!(Sampler::new(-1.0, 1.0, 0).is_err());
        assert!(Sampler::new(1.0, 0.0, 0).is_err());
        assert!(Sampler::new(f32::NAN, 1.0, 0).is_err());
    }
}
