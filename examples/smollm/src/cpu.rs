//! Rotation, cache and attention on the CPU, in f32, as plainly as it can be: what the GPU is
//! compared with.

use std::ops::Range;

use phasor::cache::ModelKind;
use phasor::rotary::{Pairing, RopeRule};

use crate::Result;
use crate::linear::{Matrix, dot};
use crate::model::Attention;
use crate::weights::Weights;

/// Plain RoPE attention.
pub struct OnCpu {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    pairing: Pairing,
    /// Radians per position.
    frequencies: Vec<f64>,
    /// K and V of every layer and kv head, `[capacity, D]`.
    caches: Vec<[Matrix; 2]>,
    capacity: usize,
    chunk: usize,
    len: usize,
    rows: usize,
}

impl OnCpu {
    pub fn new(weights: &Weights, capacity: u32, chunk: u32) -> Result<Self> {
        let config = &weights.config;
        let (rope, dim) = (&config.rope, config.head_dim as usize);
        if weights.components != ModelKind::Plain
            || rope.rule != RopeRule::Default
            || rope.rotary_dim != config.head_dim
        {
            return Err("--cpu-attention is plain RoPE over whole heads only".into());
        }
        let capacity = capacity as usize;
        let caches = config.layers as usize * config.kv_heads as usize;
        let frequency = |i: usize| rope.theta.powf(-2.0 * i as f64 / dim as f64);
        Ok(Self {
            heads: config.heads as usize,
            kv_heads: config.kv_heads as usize,
            dim,
            pairing: rope.pairing,
            frequencies: (0..dim / 2).map(frequency).collect(),
            caches: (0..caches).map(|_| [(); 2].map(|()| Matrix::zeros(capacity, dim))).collect(),
            capacity,
            chunk: chunk.max(1) as usize,
            len: 0,
            rows: 0,
        })
    }

    /// Rotates the row of a head.
    fn rotate(&self, row: &mut [f32], position: usize) {
        for (pair, frequency) in (0..).zip(&self.frequencies) {
            let (a, b) = self.pairing.input(pair, self.dim as u32);
            let (a, b) = (a as usize, b as usize);
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (sin, cos) = (sin as f32, cos as f32);
            (row[a], row[b]) = (row[a] * cos - row[b] * sin, row[b] * cos + row[a] * sin);
        }
    }
}

impl Attention for OnCpu {
    fn chunk(&self) -> usize {
        self.chunk
    }

    fn reset(&mut self) -> Result<()> {
        self.len = 0;
        Ok(())
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        self.rows = rows;
        match self.len + rows <= self.capacity {
            true => Ok(()),
            false => Err(format!("the cache has room for {} tokens", self.capacity).into()),
        }
    }

    fn layer(&mut self, layer: usize, qkv: &Matrix) -> Result<Matrix> {
        let (dim, first) = (self.dim, layer * self.kv_heads);
        let scale = (dim as f32).powf(-0.5);
        let mut out = Matrix::zeros(self.rows, self.heads * dim);
        for (position, (row, out)) in (self.len..).zip(qkv.rows().zip(out.rows_mut())) {
            let (q, new) = row.split_at(self.heads * dim);
            let (k, v) = new.split_at(self.kv_heads * dim);
            for (head, (k, v)) in k.chunks(dim).zip(v.chunks(dim)).enumerate() {
                let mut k = k.to_vec();
                self.rotate(&mut k, position);
                let [keys, values] = &mut self.caches[first + head];
                keys.row_mut(position).copy_from_slice(&k);
                values.row_mut(position).copy_from_slice(v);
            }
            for (head, (q, out)) in q.chunks(dim).zip(out.chunks_mut(dim)).enumerate() {
                let mut q = q.to_vec();
                self.rotate(&mut q, position);
                let of = first + head / (self.heads / self.kv_heads);
                let [keys, values] = &self.caches[of];
                let seen = 0..position + 1;
                let scores = seen.clone().map(|key| scale * dot(&q, keys.row(key)));
                let mut weights: Vec<f32> = scores.collect();
                let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                weights.iter_mut().for_each(|weight| *weight = (*weight - largest).exp());
                let sum: f32 = weights.iter().sum();
                weights.iter_mut().for_each(|weight| *weight /= sum);
                weighted_sum(&weights, values, seen, out);
            }
        }
        Ok(out)
    }

    fn finish(&mut self) {
        self.len += self.rows;
    }
}

/// Rows `range` of a cache, summed with weights: `Σ w_j v_j`.
fn weighted_sum(weights: &[f32], rows: &Matrix, range: Range<usize>, out: &mut [f32]) {
    out.fill(0.0);
    for (weight, row) in weights.iter().zip(range) {
        out.iter_mut().zip(rows.row(row)).for_each(|(out, v)| *out += weight * v);
    }
}
