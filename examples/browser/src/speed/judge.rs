//! Rows of what a trial computed against the formula.

use phasor::oracle::{self, AttentionInputs, Real};
use phasor::rotary::Pairing;
use phasor::{OutputHead, wgpu};

use crate::Result;
use crate::gpu::Shared;
use crate::oracle::FLOOR_ULPS;

/// Rows, and what they should be.
#[derive(Default)]
pub struct Judge {
    rows: Vec<Row>,
}

struct Row {
    buffer: wgpu::Buffer,
    /// First byte.
    at: u64,
    truth: Vec<f64>,
    naive: Vec<f32>,
}

impl Judge {
    /// A row of numbers that lies at this place of the buffer.
    pub fn row(&mut self, buffer: &wgpu::Buffer, at: usize, truth: Vec<f64>, naive: Vec<f32>) {
        let (buffer, at) = (buffer.clone(), 4 * at as u64);
        self.rows.push(Row { buffer, at, truth, naive });
    }

    /// The largest error, and what it may be: twice that of the formula in f32, and a few ulp of
    /// the largest number.
    pub async fn judge(&self, gpu: &Shared) -> Result<[f64; 2]> {
        let bytes = |row: &Row| 4 * row.truth.len() as u64;
        let staging = gpu.staging(self.rows.iter().map(bytes).sum());
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut to = 0;
        for row in &self.rows {
            encoder.copy_buffer_to_buffer(&row.buffer, row.at, &staging, to, bytes(row));
            to += bytes(row);
        }
        gpu.queue.submit([encoder.finish()]);
        let got = gpu.read(&staging).await?;
        staging.destroy();

        let truth = || self.rows.iter().flat_map(|row| &row.truth);
        let naive = self.rows.iter().flat_map(|row| &row.naive);
        let largest = |of: &mut dyn Iterator<Item = &f32>| {
            let off = of.zip(truth()).map(|(&x, t)| (f64::from(x) - t).abs());
            off.fold(0.0, |most, x| if x.is_nan() { f64::INFINITY } else { x.max(most) })
        };
        let error = largest(&mut got.iter());
        let size = truth().fold(0.0, |most: f64, t| most.max(t.abs()));
        let naive = largest(&mut { naive });
        Ok([error, 2.0 * naive + FLOOR_ULPS * f64::from(f32::EPSILON) * size])
    }
}

/// One row of attention of an output head, over the keys and values `[S_k, D]` that it sees.
pub fn attended<R: Real>(q: &[f32], [k, v]: [&[f32]; 2], head: OutputHead) -> Result<Vec<R>> {
    let wide = |x: &[f32]| x.iter().map(|&x| R::from_f64(f64::from(x))).collect::<Vec<R>>();
    let (q, k, v) = (wide(q), wide(k), wide(v));
    let dim = q.len() as u32;
    let keys = [1, 1, k.len() as u32 / dim, dim];
    let attended = oracle::attention(&AttentionInputs {
        q: &q,
        q_shape: [1, 1, 1, dim],
        k: &k,
        k_shape: keys,
        v: &v,
        v_shape: keys,
        rotary_dim: dim,
        pairing: Pairing::Half,
        heads: &[OutputHead { source: 0, ..head }],
        softmax_scale: f64::from(dim).powf(-0.5),
        causal: true,
        q_offset: None,
        kv_lens: None,
    })?;
    Ok(attended.out)
}
