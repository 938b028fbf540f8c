//! The layer on the GPU: attention of both components, its weights, and the statistics of its rows.

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::scores::{
    ComponentOrder, Output, RowStatistics, Scores, ScoresBindings, ScoresProblem, ScoresShape,
};
use phasor::{DType, Dispatch, HeadMap, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use crate::{Result, layer::Layer, rotated::Rotated};

/// A layer whose queries and keys have been rotated and attended with.
pub struct Session<'a> {
    gpu: &'a Gpu,
    layer: &'a Layer,
    /// Rotation and attention, as their plans print themselves.
    pub plans: String,
    rotated: Rotated,
    /// Both components in one pass, over `q`.
    attention: Dispatch,
    /// What the attention reads: the rotated queries, or what [`Session::outputs`] put there.
    q: wgpu::Buffer,
    out: wgpu::Buffer,
    /// Log-sum-exp of the rotated queries, `[1, 2 Hq, S]`.
    lse: wgpu::Buffer,
}

impl<'a> Session<'a> {
    pub fn new(gpu: &'a Gpu, layer: &'a Layer) -> Result<Self> {
        let rotated = Rotated::new(gpu, layer)?;
        let heads = HeadMap::ropepp(layer.q_heads())?;
        let [_, q_heads, seq, head_dim] = layer.q_shape;
        let out_shape = [1, 2 * q_heads, seq, layer.v_shape[3]];
        let problem = AttentionProblem {
            value_dim: layer.v_shape[3],
            pairing: layer.pairing,
            softmax_scale: layer.softmax_scale() as f32,
            lse: true,
            ..AttentionProblem::new(heads, layer.kv_heads(), head_dim)
        };
        let plan = problem.plan(&gpu.capabilities())?;
        let plans = format!("{}\n{plan}", rotated.plan);
        let kernel = Attention::new(&gpu.device, &plan)?;
        let q = gpu.output(layer.q.len(), DType::F32);
        let elements = |shape: [u32; 4]| shape.iter().map(|&n| n as usize).product::<usize>();
        let out = gpu.output(elements(out_shape), DType::F32);
        let lse_len = elements([1, 2 * q_heads, seq, 1]);
        let [lse, scratch] = [(); 2].map(|()| gpu.output(lse_len, DType::F32));
        let tensor = |buffer, shape| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let bind = |q, lse: &wgpu::Buffer| -> Result<Dispatch> {
            let bindings = AttentionBindings {
                lse: Some(lse.as_entire_buffer_binding()),
                ..AttentionBindings::new(
                    tensor(q, layer.q_shape)?,
                    tensor(&rotated.k, layer.k_shape)?,
                    tensor(&rotated.v, layer.v_shape)?,
                    tensor(&out, out_shape)?,
                )
            };
            Ok(kernel.bind(&gpu.device, &AttentionShape::new(1, seq, seq), &bindings)?)
        };
        let first = bind(&rotated.q, &lse)?;
        let attention = bind(&q, &scratch)?;
        gpu.run(|encoder| {
            rotated.dispatch.encode(encoder);
            first.encode(encoder);
        });
        Ok(Self { gpu, layer, plans, rotated, attention, q, out, lse })
    }

    /// Rotated queries `[1, Hq, S, D]`.
    pub fn queries(&self) -> Vec<f32> {
        self.gpu.download(&self.rotated.q, DType::F32)
    }

    /// Outputs `[1, 2 Hq, S, Dv]` with these for rotated queries: heads re0, im0, re1, im1, …
    pub fn outputs(&self, queries: &[f32]) -> Vec<f32> {
        self.gpu.queue.write_buffer(&self.q, 0, bytemuck::cast_slice(queries));
        self.gpu.run(|encoder| self.attention.encode(encoder));
        self.gpu.download(&self.out, DType::F32)
    }

    /// Attention weights of a head, `[S, S]`, real and imaginary, in parts of so many rows that
    /// 32 MiB hold them.
    pub fn weights(&self, head: u32) -> Result<[Vec<f64>; 2]> {
        let seq = self.layer.seq();
        let output = Output::Probabilities(ComponentOrder::Planes);
        let kernel = self.scores(vec![head], output)?;
        let rows = ((32 << 20) / (2 * 4 * seq)).clamp(1, seq);
        let mut maps = [Vec::new(), Vec::new()];
        for start in (0..seq).step_by(rows as usize) {
            let queries = start..(start + rows).min(seq);
            let shape = ScoresShape { queries, ..ScoresShape::new(1, seq, seq) };
            let values = self.run(&kernel, &shape, true)?;
            let (real, imaginary) = values.split_at(values.len() / 2);
            for (map, part) in maps.iter_mut().zip([real, imaginary]) {
                map.extend(part.iter().copied().map(f64::from));
            }
        }
        Ok(maps)
    }

    /// Statistics of the rows of every head, real and imaginary.
    pub fn statistics(&self, distance: u32) -> Result<Vec<[Vec<RowStatistics>; 2]>> {
        let seq = self.layer.seq();
        let heads = (0..self.layer.q_heads()).collect();
        let kernel = self.scores(heads, Output::Statistics { distance })?;
        let values = self.run(&kernel, &ScoresShape::new(1, seq, seq), false)?;
        let rows: &[RowStatistics] = bytemuck::cast_slice(&values);
        let component =
            |head: &[RowStatistics], n| head.iter().skip(n).step_by(2).copied().collect();
        let both = |head| [component(head, 0), component(head, 1)];
        Ok(rows.chunks(2 * seq as usize).map(both).collect())
    }

    fn scores(&self, heads: Vec<u32>, output: Output) -> Result<Scores> {
        let layer = self.layer;
        let problem = ScoresProblem {
            heads,
            pairing: layer.pairing,
            softmax_scale: layer.softmax_scale() as f32,
            output,
            ..ScoresProblem::new(layer.q_heads(), layer.kv_heads(), layer.head_dim())
        };
        Ok(Scores::new(&self.gpu.device, &problem.plan(&self.gpu.capabilities())?)?)
    }

    fn run(&self, kernel: &Scores, shape: &ScoresShape, lse: bool) -> Result<Vec<f32>> {
        let elements = kernel.plan().output_bytes(shape) as usize / 4;
        let out = self.gpu.output(elements, DType::F32);
        let tensor = |buffer, shape| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
        };
        let bindings = ScoresBindings {
            q: tensor(&self.rotated.q, self.layer.q_shape)?,
            k: tensor(&self.rotated.k, self.layer.k_shape)?,
            out: out.as_entire_buffer_binding(),
            lse: lse.then(|| self.lse.as_entire_buffer_binding()),
        };
        let dispatch = kernel.bind(&self.gpu.device, shape, &bindings)?;
        self.gpu.run(|encoder| dispatch.encode(encoder));
        let mut values = self.gpu.download(&out, DType::F32);
        values.truncate(elements);
        Ok(values)
    }
}
