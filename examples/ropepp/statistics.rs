//! What a map of attention weights says about distance.

/// Sums over the causal pairs (t, s) of one or several maps, by distance Δ = t − s.
pub struct ByDistance {
    weights: Vec<f64>,
    uniform: Vec<f64>,
    pairs: Vec<f64>,
}

/// Means over a range of distances.
pub struct Point {
    /// Distance that stands for the range: its geometric mean; 0 stands alone.
    pub distance: f64,
    /// Mean attention weight.
    pub weight: f64,
    /// What attention without any preference would give, the mean of 1/(t + 1).
    pub uniform: f64,
}

impl ByDistance {
    pub fn new(seq: usize) -> Self {
        ByDistance { weights: vec![0.0; seq], uniform: vec![0.0; seq], pairs: vec![0.0; seq] }
    }

    /// Adds a map `[S, S]` of causal attention weights.
    pub fn add(&mut self, map: &[f64]) {
        let seq = self.weights.len();
        for (t, row) in map.chunks_exact(seq).enumerate() {
            for (s, &weight) in row[..=t].iter().enumerate() {
                self.weights[t - s] += weight;
                self.uniform[t - s] += 1.0 / (t + 1) as f64;
                self.pairs[t - s] += 1.0;
            }
        }
    }

    /// Adds the sums of another.
    pub fn merge(&mut self, other: &ByDistance) {
        for (sums, others) in [
            (&mut self.weights, &other.weights),
            (&mut self.uniform, &other.uniform),
            (&mut self.pairs, &other.pairs),
        ] {
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        }
    }

    /// Σ p(t, s) (t − s), averaged over the rows: how far back the map looks.
    pub fn mean_distance(&self) -> f64 {
        let sum: f64 = self.weights.iter().enumerate().map(|(d, w)| d as f64 * w).sum();
        sum / self.weights.iter().sum::<f64>()
    }

    /// Mean weight against distance, in ranges that grow by a seventh: far distances have few
    /// rows, so single ones are noise.
    pub fn curve(&self) -> Vec<Point> {
        let mut curve = Vec::new();
        let mut start = 0;
        while start < self.weights.len() {
            let end = (start + 1 + start / 7).min(self.weights.len());
            let mean = |sums: &[f64]| {
                sums[start..end].iter().sum::<f64>() / self.pairs[start..end].iter().sum::<f64>()
            };
            curve.push(Point {
                distance: (start as f64 * (end - 1) as f64).sqrt(),
                weight: mean(&self.weights),
                uniform: mean(&self.uniform),
            });
            start = end;
        }
        curve
    }
}
