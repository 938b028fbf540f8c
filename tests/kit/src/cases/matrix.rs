//! Weights of a linear layer, on the host.

use super::Result;

/// `[outputs, inputs]`, row-major.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub(super) inputs: usize,
    pub(super) weights: Vec<f64>,
}

impl Matrix {
    pub(super) fn new(shape: &[usize], weights: Vec<f64>) -> Result<Self> {
        match *shape {
            [outputs, inputs] if inputs > 0 && outputs * inputs == weights.len() => {
                Ok(Self { inputs, weights })
            }
            _ => Err(format!("{} weights of shape {shape:?}", weights.len()).into()),
        }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weights.len() / self.inputs
    }

    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.weights[i * self.inputs..][..self.inputs]
    }

    /// `x Wᵀ` of every row of x.
    pub(crate) fn times(&self, x: &[f64]) -> Vec<f64> {
        let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        x.chunks_exact(self.inputs)
            .flat_map(|x| self.weights.chunks_exact(self.inputs).map(move |w| dot(x, w)))
            .collect()
    }

    /// `d_y W`: the gradient of x.
    pub(crate) fn back(&self, d_y: &[f64]) -> Vec<f64> {
        let mut d_x = Vec::with_capacity(d_y.len() / self.outputs() * self.inputs);
        for d_y in d_y.chunks_exact(self.outputs()) {
            let mut row = vec![0.0; self.inputs];
            for (d, w) in d_y.iter().zip(self.weights.chunks_exact(self.inputs)) {
                row.iter_mut().zip(w).for_each(|(sum, w)| *sum += d * w);
            }
            d_x.extend(row);
        }
        d_x
    }

    /// `d_yᵀ x`: the gradient of the weights.
    pub(crate) fn weights_gradient(&self, d_y: &[f64], x: &[f64]) -> Vec<f64> {
        let mut d_w = vec![0.0; self.weights.len()];
        for (d_y, x) in d_y.chunks_exact(self.outputs()).zip(x.chunks_exact(self.inputs)) {
            for (d, row) in d_y.iter().zip(d_w.chunks_exact_mut(self.inputs)) {
                row.iter_mut().zip(x).for_each(|(sum, x)| *sum += d * x);
            }
        }
        d_w
    }
}
