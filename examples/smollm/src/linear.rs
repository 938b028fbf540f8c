//! Matrices, norms and the activation on the CPU, in f32.

use rayon::prelude::*;

use crate::Result;

/// Rows one behind the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    columns: usize,
    data: Vec<f32>,
}

impl Matrix {
    pub fn new(columns: usize, data: Vec<f32>) -> Result<Self> {
        match columns > 0 && data.len().is_multiple_of(columns) {
            true => Ok(Self { columns, data }),
            false => Err(format!("{} elements in rows of {columns}", data.len()).into()),
        }
    }

    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { columns, data: vec![0.0; rows * columns] }
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn len(&self) -> usize {
        self.data.len() / self.columns
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub fn data(&self) -> &[f32] {
        &self.data
    }

    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.columns)
    }

    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.columns)
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..][..self.columns]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.columns..][..self.columns]
    }

    /// One row alone, the last.
    pub fn last(&self) -> Self {
        Self { columns: self.columns, data: self.row(self.len() - 1).to_vec() }
    }

    /// The rows of all of them, one below the other.
    pub(crate) fn stack(parts: &[Self]) -> Self {
        let columns = parts.first().map_or(1, Self::columns);
        Self { columns, data: parts.iter().flat_map(|part| &part.data).copied().collect() }
    }

    /// Adds the elements of another of the same shape.
    pub fn add(&mut self, other: &Self) {
        self.data.iter_mut().zip(&other.data).for_each(|(a, b)| *a += b);
    }
}

/// A weight matrix `[out, in]`: `y = x · Wᵀ`.
pub struct Linear(Matrix);

/// Outputs that a thread computes at a time: enough to be worth one.
const BLOCK: usize = 192;

impl Linear {
    pub(crate) fn new(weight: Matrix) -> Self {
        Self(weight)
    }

    /// Rows of the matrix: outputs, or tokens of an embedding.
    pub fn weight(&self) -> &Matrix {
        &self.0
    }

    /// `[rows, in]` to `[rows, out]`.
    pub fn forward(&self, x: &Matrix) -> Matrix {
        let Matrix { columns, data } = &self.0;
        assert_eq!(x.columns, *columns, "rows that fit the matrix");
        let outputs = self.0.len();
        let blocks = data.par_chunks(BLOCK * columns);
        // Each block's outputs for all rows of x, which are put in their places afterwards.
        let parts: Vec<Matrix> = blocks.map(|weight| product(x, weight)).collect();
        if x.len() == 1 {
            return Matrix { columns: outputs, data: Matrix::stack(&parts).data };
        }
        let mut y = Matrix::zeros(x.len(), outputs);
        for (row, y) in y.rows_mut().enumerate() {
            for (part, y) in parts.iter().zip(y.chunks_mut(BLOCK)) {
                y.copy_from_slice(part.row(row));
            }
        }
        y
    }
}

/// `x · Wᵀ` for some rows of W.
fn product(x: &Matrix, weight: &[f32]) -> Matrix {
    let k = x.columns;
    let (m, n) = (x.len(), weight.len() / k);
    if m == 1 {
        // One row is bound by memory: a plain loop reads as fast as anything.
        let row = weight.chunks_exact(k).map(|weight| dot(&x.data, weight));
        return Matrix { columns: n, data: row.collect() };
    }
    let mut y = Matrix::zeros(m, n);
    let one = |length: usize| length as isize;
    assert!(x.data.len() == m * k && weight.len() == n * k && y.data.len() == m * n);
    // SAFETY: the three matrices are m × k, k × n (stored by columns) and m × n, each as long as
    // its strides reach, which the line above checks; y aliases neither.
    #[expect(unsafe_code, reason = "the library takes pointers")]
    unsafe {
        let (x, w, y) = (x.data.as_ptr(), weight.as_ptr(), y.data.as_mut_ptr());
        matrixmultiply::sgemm(m, k, n, 1.0, x, one(k), 1, w, 1, one(k), 0.0, y, one(n), 1);
    }
    y
}

/// Sixteen sums side by side, which compilers turn into vector registers. Browsers with WebGPU have
/// those of WebAssembly.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (a_whole, b_whole) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_whole.remainder().iter().zip(b_whole.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_whole.zip(b_whole) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// RMSNorm: `x / √(mean x² + ε) · w`.
pub struct Norm {
    weight: Vec<f32>,
    eps: f32,
}

impl Norm {
    pub(crate) fn new(weight: Matrix, eps: f32) -> Self {
        Self { weight: weight.data, eps }
    }

    pub fn forward(&self, x: &Matrix) -> Matrix {
        let mut y = x.clone();
        for row in y.rows_mut() {
            // Sums of squares in f64: on the CPU they cost nothing.
            let sum: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let scale = (sum / row.len() as f64 + f64::from(self.eps)).powf(-0.5) as f32;
            for (x, weight) in row.iter_mut().zip(&self.weight) {
                *x *= scale * weight;
            }
        }
        y
    }
}

/// SwiGLU: `silu(gate) · up`, into gate.
pub fn swiglu(gate: &mut Matrix, up: &Matrix) {
    for (gate, up) in gate.data.iter_mut().zip(&up.data) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_one_row_and_of_many_are_the_sums_they_should_be() {
        // More outputs than a block, more inputs than a run of sums.
        let (n, k) = (2 * BLOCK + 3, 21);
        let weight = (0..n * k).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        let linear = Linear::new(Matrix::new(k, weight).unwrap());
        for rows in [1, 3] {
            let x = (0..rows * k).map(|i| (i * 5 % 9) as f32 - 4.0).collect();
            let x = Matrix::new(k, x).unwrap();
            let y = linear.forward(&x);
            assert_eq!((y.len(), y.columns()), (rows, n));
            for (x, y) in x.rows().zip(y.rows()) {
                for (weight, y) in linear.weight().rows().zip(y) {
                    // Small integers: exact in any order.
                    assert_eq!(*y, x.iter().zip(weight).map(|(x, w)| x * w).sum::<f32>());
                }
            }
        }
    }

    #[test]
    fn norm_and_activation() {
        let matrix = |data: [f32; 4]| Matrix::new(4, data.to_vec()).unwrap();
        let norm = Norm::new(matrix([1.0, 2.0, 0.5, 0.0]), 0.0);
        assert_eq!(norm.forward(&matrix([3.0, -3.0, 3.0, 3.0])), matrix([1.0, -2.0, 0.5, 0.0]));
        let mut gate = matrix([0.0, 30.0, 0.0, 40.0]);
        swiglu(&mut gate, &matrix([2.0; 4]));
        assert_eq!(gate, matrix([0.0, 60.0, 0.0, 80.0]));
        assert!(Matrix::new(3, vec![0.0; 4]).is_err());
    }
}
