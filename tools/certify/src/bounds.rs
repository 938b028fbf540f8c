//! The a-priori bounds, as `phasor::numerics` derives them: what rounding can do at worst to these
//! numbers, whatever the device, as long as it keeps to WGSL's accuracy.

use phasor::{DType, Precision};

/// Half an ulp of 1 in f32.
pub const U: f64 = 1.0 / (1 << 24) as f64;
/// Second-order terms, generously.
const MORE: f64 = 1.01;

/// Relative error of a sum of n terms.
pub fn gamma(n: usize) -> f64 {
    n as f64 * U / (1.0 - n as f64 * U)
}

/// Relative error that WGSL allows `exp2(x)` and `exp(x)`: 3 + 2|x| ulp.
pub fn exp_error(x: f64) -> f64 {
    (3.0 + 2.0 * x.abs()) * 2.0 * U
}

/// A bound on the way into storage.
pub fn stored(dtype: DType, truth: f64, bound: f64) -> f64 {
    let half = match dtype {
        DType::F32 => 0.0,
        DType::F16 => (truth.abs() + bound) / 2048.0 + 2f64.powi(-25),
    };
    // Denormals may be flushed.
    bound * MORE + half + f64::from(f32::MIN_POSITIVE)
}

/// Either member of a rotated pair, from the largest of both.
pub fn rotation(a: f64, b: f64, cos: f64, sin: f64) -> f64 {
    let first = (a * cos).abs() + (b * sin).abs();
    let second = (b * cos).abs() + (a * sin).abs();
    4.0 * U * first.max(second)
}

/// One softmax row: scores in base 2 and how far off each may be.
pub struct Row<'a> {
    pub scores: &'a [f64],
    pub deltas: &'a [f64],
    /// Steps in which the kernel takes the keys.
    pub steps: usize,
    /// Parts that are merged afterwards.
    pub parts: usize,
    /// Relative error of a value as the kernel reads it, and of a weight that is not that of f32.
    pub value_error: f64,
    /// Products that one is computed by.
    pub products: usize,
}

pub struct RowBound {
    weights: Vec<f64>,
    relative: Vec<f64>,
    /// Relative error of the sum of weights.
    sum: f64,
    merged: f64,
    keys: usize,
    value_error: f64,
    largest: f64,
}

impl Row<'_> {
    pub fn bound(&self) -> RowBound {
        let fold = |f: fn(f64, f64) -> f64, start| self.scores.iter().copied().fold(start, f);
        let (max, min) = (fold(f64::max, f64::NEG_INFINITY), fold(f64::min, f64::INFINITY));
        let total: f64 = self.scores.iter().map(|s| (s - max).exp2()).sum();
        let weights: Vec<f64> = self.scores.iter().map(|s| (s - max).exp2() / total).collect();
        let rescaled = 8.0 * U * self.steps as f64 + 4.0 * U * (max - min);
        let relative = |(s, delta): (&f64, &f64)| {
            let x = s - max;
            std::f64::consts::LN_2 * (delta + U * x.abs()) + exp_error(x) + rescaled
        };
        let relative: Vec<f64> = self.scores.iter().zip(self.deltas).map(relative).collect();
        let sum = weights.iter().zip(&relative).map(|(w, r)| w * r).sum();
        let largest = max.abs().max(min.abs()) * std::f64::consts::LN_2 + total.ln();
        // Σ w (3 + 2|log₂ w|) over parts: w |log₂ w| is at most 0.54.
        let merged = match self.parts {
            0 | 1 => 0.0,
            n => {
                2.0 * (4.0 * U * largest + 2.0 * U * (3.0 + 1.08 * n as f64))
                    + 2.0 * gamma(n)
                    + 8.0 * U
            }
        };
        let (keys, value_error) = (self.products * self.scores.len(), self.value_error);
        RowBound { weights, relative, sum, merged, keys, value_error, largest }
    }
}

impl RowBound {
    /// Of one channel of the output, from the values of the keys.
    pub fn output(&self, value: impl Fn(usize) -> f64) -> f64 {
        let rest = self.sum + 2.0 * gamma(self.keys) + 8.0 * U + self.value_error;
        let (mut bound, mut largest) = (0.0, 0.0f64);
        for (j, (w, relative)) in self.weights.iter().zip(&self.relative).enumerate() {
            let v = value(j).abs();
            bound += w * v * (relative + rest);
            largest = largest.max(v);
        }
        bound + self.merged * largest
    }

    pub fn lse(&self) -> f64 {
        self.sum + gamma(self.keys) + 2f64.powi(-21) + 8.0 * U * self.largest + self.merged
    }
}

/// How far off a score of `dim` products may be, from Σ|q k| · scale · log₂ e.
pub fn score(dim: u32, sum: f64) -> f64 {
    gamma(dim as usize + 8) * sum
}

/// What rounding on matrix units adds: relative to Σ|q k|, relative to Σ P|v|, and the products
/// that stand for one.
pub fn on_matrices(precision: Precision) -> (f64, f64, usize) {
    let half = 2f64.powi(-11);
    match precision {
        Precision::F16Products => (2.0 * half + half * half, 3.0 * (half + half * half), 1),
        // Two of 11 bits have 22, on both sides, and the product of what is small is left out.
        Precision::F16x3Products => (3.0 * half * half, 3.0 * half * half, 3),
        _ => (0.0, 0.0, 1),
    }
}
