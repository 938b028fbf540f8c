//! The random vectors of FAVOR+, made on the host.

use crate::{Error, Result};

/// The vectors ω of positive random features (Performer, arXiv 2009.14794, §2.3 and §2.4).
#[derive(Debug, Clone, PartialEq)]
pub struct RandomFeatures {
    head_dim: u32,
    features: u32,
    matrix: Vec<f32>,
}

/// Whether the vectors ω are independent of one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Directions {
    /// Independent Gaussian vectors.
    Independent,
    /// Blocks of D vectors at right angles, each as long as an independent Gaussian vector: as
    /// unbiased, and with less variance (§2.4).
    Orthogonal,
}

impl RandomFeatures {
    /// `features` Gaussian vectors of `head_dim` components. The same seed gives the same vectors,
    /// on every machine and in every version.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a number that is 0 or above 65536.
    pub fn new(head_dim: u32, features: u32, seed: u64, directions: Directions) -> Result<Self> {
        for (what, n) in [("head_dim", head_dim), ("features", features)] {
            if n == 0 || n > 1 << 16 {
                return Err(Error::Invalid { what, needed: "1 to 65536", got: n.to_string() });
            }
        }
        let dim = head_dim as usize;
        let mut random = Gaussian::new(seed);
        let mut vectors: Vec<Vec<f64>> = Vec::new();
        while vectors.len() < features as usize {
            let left = features as usize - vectors.len();
            match directions {
                Directions::Independent => vectors.push(random.vector(dim)),
                Directions::Orthogonal => vectors.extend(random.orthogonal(dim, left.min(dim))),
            }
        }
        let column = |c: usize| vectors.iter().map(move |vector| vector[c] as f32);
        let matrix = (0..dim).flat_map(column).collect();
        Ok(Self { head_dim, features, matrix })
    }

    /// D.
    pub fn head_dim(&self) -> u32 {
        self.head_dim
    }

    /// F.
    pub fn features(&self) -> u32 {
        self.features
    }

    /// `[D, F]`, row-major: column f is ω_f.
    pub fn matrix(&self) -> &[f32] {
        &self.matrix
    }

    /// The matrix as bytes, for upload.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.matrix)
    }
}

/// Normally distributed numbers: SplitMix64 (Steele et al. 2014) and Box–Muller. Written out here
/// so that a seed means the same for ever.
struct Gaussian(u64);

impl Gaussian {
    fn new(seed: u64) -> Self {
        Gaussian(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (core::f64::consts::TAU * self.uniform()).cos()
    }

    fn vector(&mut self, dim: usize) -> Vec<f64> {
        (0..dim).map(|_| self.next()).collect()
    }

    /// `count` vectors at right angles, in a direction and of a length as Gaussian ones have.
    fn orthogonal(&mut self, dim: usize, count: usize) -> Vec<Vec<f64>> {
        let mut basis: Vec<Vec<f64>> = Vec::new();
        while basis.len() < count {
            let mut vector = self.vector(dim);
            // Gram–Schmidt, twice: once leaves a remainder where vectors are nearly parallel.
            for other in basis.iter().chain(&basis) {
                let along = dot(&vector, other);
                vector.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
            let length = dot(&vector, &vector).sqrt();
            // Within the span of the others by chance: draw again.
            if length > 1e-6 {
                basis.push(vector.into_iter().map(|x| x / length).collect());
            }
        }
        for vector in &mut basis {
            let gaussian = self.vector(dim);
            let length = dot(&gaussian, &gaussian).sqrt();
            vector.iter_mut().for_each(|x| *x *= length);
        }
        basis
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(features: u32, directions: Directions) -> Vec<Vec<f64>> {
        let all = RandomFeatures::new(16, features, 7, directions).unwrap();
        let entry = |c: u32, f: u32| f64::from(all.matrix()[(c * features + f) as usize]);
        (0..features).map(|f| (0..16).map(|c| entry(c, f)).collect()).collect()
    }

    #[test]
    fn vectors_have_the_moments_of_gaussians() {
        for directions in [Directions::Independent, Directions::Orthogonal] {
            let all = vectors(4096, directions).concat();
            let n = all.len() as f64;
            let moment = |power| all.iter().map(|x: &f64| x.powi(power)).sum::<f64>() / n;
            let close = |got: f64, wanted: f64, allowed: f64| {
                assert!((got - wanted).abs() < allowed, "{directions:?}: {got}, not {wanted}");
            };
            close(moment(1), 0.0, 0.02);
            close(moment(2), 1.0, 0.02);
            close(moment(4), 3.0, 0.15);
        }
    }

    #[test]
    fn orthogonal_vectors_are_at_right_angles_within_blocks() {
        let all = vectors(40, Directions::Orthogonal);
        for block in all.chunks(16) {
            for (i, a) in block.iter().enumerate() {
                for b in &block[..i] {
                    assert!(dot(a, b).abs() < 1e-5);
                }
            }
        }
        assert!(dot(&all[0], &all[16]).abs() > 1e-3, "blocks are independent");
    }

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let make = |seed| RandomFeatures::new(2, 2, seed, Directions::Independent).unwrap();
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        // First output of SplitMix64 for the seed 0, as its authors publish it.
        assert_eq!(Gaussian::new(0).bits(), 0xE220_A839_7B1D_CDAF);
        assert!(RandomFeatures::new(0, 4, 1, Directions::Orthogonal).is_err());
    }
}
