//! What a result is compared with: the whole of it, or a view that a reference could afford.

use phasor::{DType, rotary::RopeRule};

use super::{Result, Rotation};
use crate::{
    golden::Tensor,
    tolerance::{Bound, Mismatch, Stats, compare, epsilon},
};

/// A linear map of a result's channels, row-major `[outputs, inputs]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Map {
    /// The channels themselves.
    Identity,
    /// `x @ Mᵀ` of each head's channels: a few directions stand for the whole.
    PerHead(Vec<f32>),
    /// `x @ Mᵀ` of all heads' channels together, as an output projection: gives one head.
    AllHeads(Vec<f32>),
}

/// Reference values for a view of a result.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The tensor in the file.
    pub name: String,
    /// Heads of the result that are compared, in order; `None` for all.
    pub heads: Option<Vec<usize>>,
    /// Positions that are compared, in order; `None` for all.
    pub rows: Option<Vec<usize>>,
    pub map: Map,
    pub values: Vec<f32>,
    /// Shape of `values`, `[B, H, S, D]` or `[B, S, H, D]`.
    pub shape: [u32; 4],
    pub bound: Bound,
}

impl Expected {
    /// The whole result, which must be within `bound`.
    ///
    /// The bounds that come with reference files are absolute, for values around 1. Where values
    /// are larger, rounding alone is: a few ulps of the largest are always granted.
    pub fn whole(name: &str, tensor: &Tensor, shape: [u32; 4], bound: f64) -> Result<Self> {
        if tensor.data.len() != shape.iter().map(|&n| n as usize).product::<usize>() {
            return Err(format!("{name}: shape {:?} is not {shape:?}", tensor.shape).into());
        }
        let size = tensor.data.iter().filter(|x| x.is_finite()).fold(0f32, |m, x| m.max(x.abs()));
        let floor = 8.0 * epsilon(DType::F32) * f64::from(size);
        Ok(Expected {
            name: name.to_owned(),
            heads: None,
            rows: None,
            map: Map::Identity,
            values: tensor.data.clone(),
            shape,
            bound: Bound::Uniform(bound.max(floor)),
        })
    }

    /// Grants what angles formed in f32 are off by, at each position, in pairs as long as the
    /// largest value: half an ulp of the angle, which is at most the position; and, unless the
    /// rotation takes the reference's own frequencies, an ulp of a frequency below 1.
    pub fn with_f32_angles(mut self, rotation: &Rotation) -> Self {
        let size = self.values.iter().fold(0f32, |m, x| m.max(x.abs()));
        let stated = matches!(rotation.config.rule, RopeRule::Custom { .. });
        let angle_error = |position: u32| {
            let position = position as f32;
            let product = f64::from(position.next_up() - position) / 2.0;
            let frequency = f64::from(position) * f64::from(f32::EPSILON) / 2.0;
            product + if stated { 0.0 } else { frequency }
        };
        let reach = rotation.reach();
        let floor = match self.bound {
            Bound::Uniform(bound) => vec![bound; reach.len()],
            Bound::PerPosition(bounds) => bounds,
        };
        let bounds = floor.into_iter().zip(reach);
        let bounds = bounds.map(|(floor, s)| floor + f64::from(size) * angle_error(s)).collect();
        self.bound = Bound::PerPosition(bounds);
        self
    }

    /// Grants twice what a naive run misses the truth by, in the view: `[B, H, S, D]` of `shape`.
    pub fn with_error_of(mut self, [naive, truth]: [&[f64]; 2], shape: [u32; 4]) -> Result<Self> {
        let ((naive, _), (truth, _)) = (self.view(naive, shape)?, self.view(truth, shape)?);
        let off = naive.iter().zip(&truth).filter(|(_, truth)| truth.is_finite());
        let more = 2.0 * off.map(|(naive, truth)| (naive - truth).abs()).fold(0.0, f64::max);
        self.bound = match self.bound {
            Bound::Uniform(bound) => Bound::Uniform(bound + more),
            Bound::PerPosition(bounds) => {
                Bound::PerPosition(bounds.into_iter().map(|bound| bound + more).collect())
            }
        };
        Ok(self)
    }

    /// Compares the view of `result`, `[B, H, S, D]` of `shape`.
    pub fn check(&self, result: &[f64], shape: [u32; 4]) -> Result<Stats> {
        let (view, shape) = self.view(result, shape)?;
        if shape != self.shape {
            let Expected { name, shape: needed, .. } = self;
            return Err(format!("{name}: the result's view {shape:?} is not {needed:?}").into());
        }
        compare(&self.name, &view, &self.values, &self.bound, shape)
            .map_err(|mismatch: Mismatch| mismatch.into())
    }

    fn view(&self, x: &[f64], shape: [u32; 4]) -> Result<(Vec<f64>, [u32; 4])> {
        let [batch, heads, seq, dim] = shape.map(|n| n as usize);
        if x.len() != batch * heads * seq * dim {
            return Err(format!("{}: {} elements for {shape:?}", self.name, x.len()).into());
        }
        let pick = |chosen: &Option<Vec<usize>>, n: usize| match chosen {
            None => Ok((0..n).collect::<Vec<_>>()),
            Some(chosen) if chosen.iter().all(|&i| i < n) => Ok(chosen.clone()),
            Some(_) => Err(format!("{}: a head or row is beyond {shape:?}", self.name)),
        };
        let (heads_seen, rows) = (pick(&self.heads, heads)?, pick(&self.rows, seq)?);
        let row = |b: usize, h: usize, s: usize| &x[((b * heads + h) * seq + s) * dim..][..dim];

        let mut out = Vec::new();
        let (mut heads_out, mut dim_out) = (heads_seen.len(), dim);
        for b in 0..batch {
            match &self.map {
                Map::Identity => {
                    for (&h, &s) in product(&heads_seen, &rows) {
                        out.extend_from_slice(row(b, h, s));
                    }
                }
                Map::PerHead(matrix) => {
                    dim_out = matrix.len() / dim.max(1);
                    for (&h, &s) in product(&heads_seen, &rows) {
                        out.extend(times(matrix, row(b, h, s)));
                    }
                }
                Map::AllHeads(matrix) => {
                    (heads_out, dim_out) = (1, matrix.len() / (dim * heads_seen.len()).max(1));
                    for &s in &rows {
                        let merged: Vec<f64> =
                            heads_seen.iter().flat_map(|&h| row(b, h, s).to_vec()).collect();
                        out.extend(times(matrix, &merged));
                    }
                }
            }
        }
        Ok((out, [batch, heads_out, rows.len(), dim_out].map(|n| n as u32)))
    }
}

fn product<'a, A, B>(a: &'a [A], b: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    a.iter().flat_map(move |x| b.iter().map(move |y| (x, y)))
}

/// `M x`, M row-major with rows as long as `x`.
fn times(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    let dot = |m: &[f32]| m.iter().zip(x).map(|(&m, x)| f64::from(m) * x).sum();
    matrix.chunks_exact(x.len().max(1)).map(dot).collect()
}
