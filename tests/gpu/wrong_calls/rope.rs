//! Wrong calls of the RoPE kernel, to other buffers and in place.

use phasor::rope::{RopeBindings, RopePlan, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation, TableShape};
use phasor::{DType, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use super::{World as _, Wrongs, calls, ids, range, whole};
use crate::harness::{Result, lab, random};

struct World {
    wrong: Wrongs,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    q_out: wgpu::Buffer,
    k_out: wgpu::Buffer,
    table: wgpu::Buffer,
    table_shape: TableShape,
}

type Call = super::Call<RopePlan>;

/// Two query heads and a key head of D = 16, 2 batches of 5 positions.
const Q: [u32; 4] = [2, 2, 5, 16];
const K: [u32; 4] = [2, 1, 5, 16];

/// What a call in place reads is what it writes.
impl super::World for World {
    fn outputs(&self) -> Vec<&wgpu::Buffer> {
        vec![&self.q, &self.k, &self.q_out, &self.k_out]
    }

    fn reset(&self, gpu: &Gpu) {
        for (buffer, shape) in [(&self.q, Q), (&self.k, K)] {
            let data = random(shape, 1.0, DType::F32, 1);
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&data));
        }
    }
}

impl World {
    fn new() -> Result<&'static Self> {
        let gpu = &lab().gpu;
        let table = RopeConfig::new(16, 10_000.0).table(64, 64)?;
        let data = |shape| gpu.upload(&random(shape, 1.0, DType::F32, 1), DType::F32);
        Ok(Box::leak(Box::new(Self {
            wrong: Wrongs::new(gpu),
            q: data(Q),
            k: data(K),
            q_out: data(Q),
            k_out: data(K),
            table: gpu.upload_bytes(table.as_bytes()),
            table_shape: table.shape()?,
        })))
    }

    fn to_other_buffers(&'static self) -> phasor::Result<Call> {
        let [q, k] = [Layout::bhsd(Q)?, Layout::bhsd(K)?];
        let tensor = |buffer, layout| Tensor::new(buffer, DType::F32, layout);
        let table = CosSin { binding: whole(&self.table), shape: self.table_shape };
        let bindings = RopeBindings {
            q: tensor(&self.q, q),
            k: Some(tensor(&self.k, k)),
            q_out: Some(tensor(&self.q_out, q)),
            k_out: Some(tensor(&self.k_out, k)),
            rotation: Rotation::new(table, Positions::From(9)),
        };
        Ok((RopeShape { batch: 2, seq: 5 }, bindings))
    }

    fn in_place(&'static self) -> phasor::Result<Call> {
        let (shape, bindings) = self.to_other_buffers()?;
        Ok((shape, RopeBindings { q_out: None, k_out: None, ..bindings }))
    }
}

#[test]
pub fn to_other_buffers() {
    let table = calls! { World, RopePlan, |w, s, b|
        "no k": b.k = None => Binding { tensor: "k", .. };
        "no q_out": b.q_out = None => Binding { tensor: "q_out", .. };
        "no k_out": b.k_out = None => Binding { tensor: "k_out", .. };
        "a longer call than q": s.seq = 6 => Shape { tensor: "q", needed: [2, 2, 6, 16], .. };
        "k with the heads of q": b.k = Some(b.q.clone()) => Shape { tensor: "k", .. };
        "k_out of another shape": b.k_out = b.q_out.clone() => Shape { tensor: "k_out", .. };
        "a row stride between quads": b.q.layout.strides[2] = 18
            => Stride { tensor: "q", what: "position stride", .. };
        "an offset between quads": b.q.layout.offset = 1
            => Stride { tensor: "q", what: "offset", .. };
        "f16 queries": b.q.dtype = DType::F16 => DType { tensor: "q", .. };
        "a short q": b.q.binding = range(&w.q, 0, 1024)
            => BindingTooSmall { tensor: "q", needed: 1280, available: 1024 };
        "an offset that the device does not bind": b.q.binding = range(&w.wrong.large, 12, 4096)
            => Alignment { tensor: "q", what: "binding offset", .. };
        "a size that is no whole word": b.q.binding = whole(&w.wrong.odd)
            => Alignment { tensor: "q", what: "binding size", .. };
        "q without STORAGE": b.q.binding.buffer = &w.wrong.no_storage => Usage { tensor: "q", .. };
        "q_out over q": b.q_out.iter_mut().for_each(|t| t.binding.buffer = &w.q)
            => Overlap { a: "q", b: "q_out" };
        "k_out over q_out": b.k_out.iter_mut().for_each(|t| t.binding.buffer = &w.q_out)
            => Overlap { a: "q_out", b: "k_out" };
        "q_out in the table": {
            b.rotation.table.binding.buffer = &w.wrong.large;
            b.q_out.iter_mut().for_each(|t| t.binding.buffer = &w.wrong.large);
        } => Overlap { a: "cos_sin", b: "q_out" };
        "one batch of q_out for all": b.q_out.iter_mut().for_each(|t| t.layout.strides[0] = 0)
            => SelfOverlap { tensor: "q_out", .. };
        "a table of another rotary_dim": b.rotation.table.shape.pairs = 16
            => Shape { tensor: "cos_sin", .. };
        "a table of no planes": b.rotation.table.shape.planes = 0
            => Invalid { what: "planes of the cos/sin table", .. };
        "a position past the table": b.rotation.positions = Positions::From(60)
            => TableTooShort { needed: 64, available: 64 };
        "too few ids": b.rotation.positions = ids(whole(&w.wrong.tiny), 0)
            => BindingTooSmall { tensor: "position_ids", needed: 20, available: 4 };
    };
    let kernel = lab().rope(&RopeProblem::new(2, 1, 16)).unwrap();
    World::new().unwrap().refuse(lab(), &kernel, World::to_other_buffers, &table);
}

#[test]
fn in_place() {
    let table = calls! { World, RopePlan, |w, s, b|
        "q_out": b.q_out = Some(Tensor::new(&w.q_out, DType::F32, b.q.layout))
            => Binding { tensor: "q_out", .. };
        "k_out": b.k_out = Some(Tensor::new(&w.q_out, DType::F32, b.q.layout))
            => Binding { tensor: "k_out", .. };
        "k over q": b.k.iter_mut().for_each(|t| t.binding.buffer = &w.q)
            => Overlap { a: "q", b: "k" };
        "one head of q for all": b.q.layout.strides[1] = 0 => SelfOverlap { tensor: "q", .. };
        "the table in q": {
            b.q.binding.buffer = &w.wrong.large;
            b.rotation.table.binding.buffer = &w.wrong.large;
        } => Overlap { a: "cos_sin", b: "q" };
    };
    let problem = RopeProblem { in_place: true, ..RopeProblem::new(2, 1, 16) };
    let kernel = lab().rope(&problem).unwrap();
    World::new().unwrap().refuse(lab(), &kernel, World::in_place, &table);
}
