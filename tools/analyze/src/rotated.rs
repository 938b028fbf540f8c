//! A layer's tensors on the device, queries and keys rotated.

use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, Rotation};
use phasor::{DType, Dispatch, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use crate::{Result, layer::Layer};

/// Queries and keys on the device, rotated when the dispatch has run.
pub struct Rotated {
    pub plan: String,
    /// `[B, Hq, S, D]`.
    pub q: wgpu::Buffer,
    /// `[B, Hkv, S, D]`.
    pub k: wgpu::Buffer,
    /// `[B, Hkv, S, Dv]`.
    pub v: wgpu::Buffer,
    pub dispatch: Dispatch,
}

impl Rotated {
    pub fn new(gpu: &Gpu, layer: &Layer) -> Result<Self> {
        let [batch, q_heads, seq, head_dim] = layer.q_shape;
        let problem = RopeProblem {
            pairing: layer.pairing,
            ..RopeProblem::new(q_heads, layer.kv_heads(), head_dim)
        };
        let shape = RopeShape { batch, seq };
        let plan = problem.plan(&gpu.capabilities())?;
        let kernel = Rope::new(&gpu.device, &plan)?;

        let table = layer.rope().table(seq, seq.into())?;
        let table_bytes = gpu.upload_bytes(table.as_bytes());
        let [q_in, k_in, v] = [&layer.q, &layer.k, &layer.v].map(|t| gpu.upload(t, DType::F32));
        let q = gpu.output(layer.q.len(), DType::F32);
        let k = gpu.output(layer.k.len(), DType::F32);
        let (q_layout, k_layout) = (Layout::bhsd(layer.q_shape)?, Layout::bhsd(layer.k_shape)?);
        let bindings = RopeBindings {
            q: Tensor::new(&q_in, DType::F32, q_layout),
            k: Some(Tensor::new(&k_in, DType::F32, k_layout)),
            q_out: Some(Tensor::new(&q, DType::F32, q_layout)),
            k_out: Some(Tensor::new(&k, DType::F32, k_layout)),
            rotation: Rotation::new(
                CosSin { binding: table_bytes.as_entire_buffer_binding(), shape: table.shape()? },
                Positions::From(0),
            ),
        };
        let dispatch = kernel.bind(&gpu.device, &shape, &bindings)?;
        let mib = plan.cost(&shape).bytes as f64 / f64::from(1 << 20);
        Ok(Rotated { plan: format!("{plan}\n  {mib:.2} MiB moved"), q, k, v, dispatch })
    }
}
