//! One softmax problem, in f64 and with its bounds.

use phasor::oracle::AttentionInputs;
use phasor::rotary::Pairing;
use phasor::{DType, HeadMap, Precision, oracle};

use super::{D, wide};
use crate::{
    Result,
    bounds::{self, Row},
};

/// One softmax problem: q `[1, H_q, S_q, D]`, one kv head of S_k keys, both components, causal from
/// the last key on.
pub struct Softmax<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub q_heads: u32,
    pub seq_q: u32,
    pub seq_k: u32,
    pub steps: usize,
    pub parts: usize,
    /// Relative error of a key or value as the kernel reads it.
    pub read_error: f64,
    pub out: DType,
    pub precision: Precision,
}

/// What it is, and how far a kernel may be from it.
pub struct Reference {
    pub truth: oracle::Attended<f64>,
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
}

impl Softmax<'_> {
    pub fn inputs<'a>(
        &self,
        q: &'a [f64],
        k: &'a [f64],
        v: &'a [f64],
        heads: &'a HeadMap,
    ) -> AttentionInputs<'a, f64> {
        AttentionInputs {
            q,
            q_shape: [1, self.q_heads, self.seq_q, D],
            k,
            k_shape: [1, 1, self.seq_k, D],
            v,
            v_shape: [1, 1, self.seq_k, D],
            rotary_dim: D,
            pairing: Pairing::Half,
            heads: heads.heads(),
            softmax_scale: f64::from(D).powf(-0.5),
            causal: true,
            q_offset: None,
            kv_lens: None,
        }
    }

    pub fn reference(&self) -> Result<Reference> {
        let heads = HeadMap::ropepp(self.q_heads)?;
        let [q, k, v] = [self.q, self.k, self.v].map(wide);
        let inputs = self.inputs(&q, &k, &v, &heads);
        let truth = oracle::attention(&inputs)?;
        let scores = oracle::scores(&inputs)?;
        let sums = self.sums(&q, &k, &v, &heads)?;
        let base2 = f64::from(D).powf(-0.5) * std::f64::consts::LOG2_E;
        let (seq_q, seq_k, d) = (self.seq_q as usize, self.seq_k as usize, D as usize);
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for head in 0..2 * self.q_heads as usize {
            let (scores, sums) = match head % 2 {
                0 => (&scores.0, &sums.0),
                _ => (&scores.1, &sums.1),
            };
            for i in 0..seq_q {
                let keys = seq_k - seq_q + i + 1;
                let first = (head / 2 * seq_q + i) * seq_k;
                let row: Vec<f64> = scores[first..first + keys].iter().map(|s| s * base2).collect();
                let (of_score, of_value, products) = bounds::on_matrices(self.precision);
                let delta = |sum: &f64| {
                    let sum = sum * base2;
                    let read = 2.0 * self.read_error + of_score;
                    bounds::score(products as u32 * D, sum) + read * sum
                };
                let deltas: Vec<f64> = sums[first..first + keys].iter().map(delta).collect();
                let (steps, parts) = (self.steps, self.parts);
                let value_error = self.read_error + of_value;
                let row =
                    Row { scores: &row, deltas: &deltas, steps, parts, value_error, products }
                        .bound();
                for c in 0..d {
                    let bound = row.output(|j| v[j * d + c]);
                    out.push(bounds::stored(self.out, truth.out[out.len()], bound));
                }
                lse.push(bounds::stored(DType::F32, 0.0, row.lse()));
            }
        }
        Ok(Reference { truth, out, lse })
    }

    /// Σ|q k| of the real and of the imaginary score.
    pub fn sums(
        &self,
        q: &[f64],
        k: &[f64],
        v: &[f64],
        heads: &HeadMap,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (q, k) = (abs(q), abs(k));
        // With the second members of the keys negative, Qb·Ka − Qa·Kb adds up.
        let half = D as usize / 2;
        let negative = |(n, x): (usize, &f64)| if n % D as usize >= half { -x } else { *x };
        let turned: Vec<f64> = k.iter().enumerate().map(negative).collect();
        let real = oracle::scores(&self.inputs(&q, &k, v, heads))?.0;
        let imaginary = oracle::scores(&self.inputs(&q, &turned, v, heads))?.1;
        Ok((real, imaginary))
    }
}
