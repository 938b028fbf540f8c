//! Wrong calls of the RoPE kernel, to other buffers and in place.

use phasor::rope::{Rope, RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation, TableShape};
use phasor::{DType, Layout, Tensor, wgpu};

use super::{Expected, Wrongs, bind_silently, error, range};
use crate::harness::{Result, lab, random, run_table};

struct World {
    wrong: Wrongs,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    q_out: wgpu::Buffer,
    k_out: wgpu::Buffer,
    table: wgpu::Buffer,
    table_shape: TableShape,
}

struct Call<'a> {
    shape: RopeShape,
    bindings: RopeBindings<'a>,
}

struct Wrong {
    twist: for<'a> fn(&'a World, &mut Call<'a>),
    expected: Expected,
}

fn wrong(
    name: &str,
    twist: for<'a> fn(&'a World, &mut Call<'a>),
    expected: Expected,
) -> (String, Wrong) {
    (name.to_owned(), Wrong { twist, expected })
}

/// Two query heads and a key head of D = 16, 2 batches of 5 positions.
const Q: [u32; 4] = [2, 2, 5, 16];
const K: [u32; 4] = [2, 1, 5, 16];

impl World {
    fn new() -> Result<Self> {
        let gpu = &lab().gpu;
        let table = RopeConfig::new(16, 10_000.0).table(64, 64)?;
        let data = |shape| gpu.upload(&random(shape, 1.0, DType::F32, 1), DType::F32);
        Ok(Self {
            wrong: Wrongs::new(gpu),
            q: data(Q),
            k: data(K),
            q_out: data(Q),
            k_out: data(K),
            table: gpu.upload_bytes(table.as_bytes()),
            table_shape: table.shape()?,
        })
    }

    fn table(&self) -> CosSin<'_> {
        CosSin { binding: self.table.as_entire_buffer_binding(), shape: self.table_shape }
    }

    fn call(&self, in_place: bool) -> phasor::Result<Call<'_>> {
        let [q, k] = [Layout::bhsd(Q)?, Layout::bhsd(K)?];
        let tensor = |buffer, layout| Tensor::new(buffer, DType::F32, layout);
        Ok(Call {
            shape: RopeShape { batch: 2, seq: 5 },
            bindings: RopeBindings {
                q: tensor(&self.q, q),
                k: Some(tensor(&self.k, k)),
                q_out: (!in_place).then(|| tensor(&self.q_out, q)),
                k_out: (!in_place).then(|| tensor(&self.k_out, k)),
                rotation: Rotation::new(self.table(), Positions::From(9)),
            },
        })
    }

    fn contents(&self) -> Vec<u8> {
        let buffers = [&self.q, &self.k, &self.q_out, &self.k_out];
        buffers.map(|buffer| lab().gpu.download_bytes(buffer)).concat()
    }

    /// What a right call gives, from the same inputs each time.
    fn run(&self, kernel: &Rope) -> Result<Vec<u8>> {
        let gpu = &lab().gpu;
        for (buffer, shape) in [(&self.q, Q), (&self.k, K)] {
            let data = random(shape, 1.0, DType::F32, 1);
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&data));
        }
        let call = self.call(kernel.plan().problem().in_place)?;
        let dispatch = kernel.bind(&gpu.device, &call.shape, &call.bindings)?;
        gpu.run(|encoder| dispatch.encode(encoder));
        Ok(self.contents())
    }

    fn refuse(&self, kernel: &Rope, wrong: &Wrong) -> Result {
        let gpu = &lab().gpu;
        let before = self.run(kernel)?;
        let mut call = self.call(kernel.plan().problem().in_place)?;
        (wrong.twist)(self, &mut call);
        let bind = || kernel.bind(&gpu.device, &call.shape, &call.bindings);
        wrong.expected.check(bind_silently(gpu, bind)?)?;
        if self.contents() != before {
            return Err("the refused call has changed a tensor".into());
        }
        match self.run(kernel)? == before {
            true => Ok(()),
            false => Err("a right call after it gives something else".into()),
        }
    }
}

#[test]
fn to_other_buffers() {
    let table = [
        wrong("no k", |_, c| c.bindings.k = None, error!(Binding { tensor: "k", .. })),
        wrong("no q_out", |_, c| c.bindings.q_out = None, error!(Binding { tensor: "q_out", .. })),
        wrong("no k_out", |_, c| c.bindings.k_out = None, error!(Binding { tensor: "k_out", .. })),
        wrong(
            "a longer call than q",
            |_, c| c.shape.seq = 6,
            error!(Shape { tensor: "q", needed: [2, 2, 6, 16], .. }),
        ),
        wrong(
            "k with the heads of q",
            |_, c| c.bindings.k = Some(c.bindings.q.clone()),
            error!(Shape { tensor: "k", .. }),
        ),
        wrong(
            "k_out of another shape",
            |_, c| c.bindings.k_out = c.bindings.q_out.clone(),
            error!(Shape { tensor: "k_out", .. }),
        ),
        wrong(
            "a row stride between quads",
            |_, c| c.bindings.q.layout.strides[2] = 18,
            error!(Stride { tensor: "q", what: "position stride", .. }),
        ),
        wrong(
            "an offset between quads",
            |_, c| c.bindings.q.layout.offset = 1,
            error!(Stride { tensor: "q", what: "offset", .. }),
        ),
        wrong(
            "f16 queries",
            |_, c| c.bindings.q.dtype = DType::F16,
            error!(DType { tensor: "q", .. }),
        ),
        wrong(
            "a short q",
            |w, c| c.bindings.q.binding = range(&w.q, 0, 1024),
            error!(BindingTooSmall { tensor: "q", needed: 1280, available: 1024 }),
        ),
        wrong(
            "an offset that the device does not bind",
            |w, c| c.bindings.q.binding = range(&w.wrong.large, 12, 4096),
            error!(Alignment { tensor: "q", what: "binding offset", .. }),
        ),
        wrong(
            "a size that is no whole word",
            |w, c| c.bindings.q.binding = w.wrong.odd.as_entire_buffer_binding(),
            error!(Alignment { tensor: "q", what: "binding size", .. }),
        ),
        wrong(
            "q without STORAGE",
            |w, c| c.bindings.q.binding.buffer = &w.wrong.no_storage,
            error!(Usage { tensor: "q", .. }),
        ),
        wrong(
            "q_out over q",
            |w, c| c.bindings.q_out.iter_mut().for_each(|t| t.binding.buffer = &w.q),
            error!(Overlap { a: "q", b: "q_out" }),
        ),
        wrong(
            "k_out over q_out",
            |w, c| c.bindings.k_out.iter_mut().for_each(|t| t.binding.buffer = &w.q_out),
            error!(Overlap { a: "q_out", b: "k_out" }),
        ),
        wrong(
            "q_out in the table",
            |w, c| {
                c.bindings.rotation.table.binding.buffer = &w.wrong.large;
                c.bindings.q_out.iter_mut().for_each(|t| t.binding.buffer = &w.wrong.large);
            },
            error!(Overlap { a: "cos_sin", b: "q_out" }),
        ),
        wrong(
            "one batch of q_out for all",
            |_, c| c.bindings.q_out.iter_mut().for_each(|t| t.layout.strides[0] = 0),
            error!(SelfOverlap { tensor: "q_out", .. }),
        ),
        wrong(
            "a table of another rotary_dim",
            |_, c| c.bindings.rotation.table.shape.pairs = 16,
            error!(Shape { tensor: "cos_sin", .. }),
        ),
        wrong(
            "a table of no planes",
            |_, c| c.bindings.rotation.table.shape.planes = 0,
            error!(Invalid { what: "planes of the cos/sin table", .. }),
        ),
        wrong(
            "a position past the table",
            |_, c| c.bindings.rotation.positions = Positions::From(60),
            error!(TableTooShort { needed: 64, available: 64 }),
        ),
        wrong(
            "too few ids",
            |w, c| {
                let binding = w.wrong.tiny.as_entire_buffer_binding();
                c.bindings.rotation.positions =
                    Positions::Ids { binding, batch_stride: 0, stream_stride: 0 };
            },
            error!(BindingTooSmall { tensor: "position_ids", needed: 20, available: 4 }),
        ),
    ];
    let world = World::new().unwrap();
    let kernel = lab().rope(&RopeProblem::new(2, 1, 16)).unwrap();
    run_table(&table, |wrong| world.refuse(&kernel, wrong));
}

#[test]
fn in_place() {
    let table = [
        wrong(
            "q_out",
            |w, c| c.bindings.q_out = Some(Tensor::new(&w.q_out, DType::F32, c.bindings.q.layout)),
            error!(Binding { tensor: "q_out", .. }),
        ),
        wrong(
            "k_out",
            |w, c| c.bindings.k_out = Some(Tensor::new(&w.q_out, DType::F32, c.bindings.q.layout)),
            error!(Binding { tensor: "k_out", .. }),
        ),
        wrong(
            "k over q",
            |w, c| c.bindings.k.iter_mut().for_each(|t| t.binding.buffer = &w.q),
            error!(Overlap { a: "q", b: "k" }),
        ),
        wrong(
            "one head of q for all",
            |_, c| c.bindings.q.layout.strides[1] = 0,
            error!(SelfOverlap { tensor: "q", .. }),
        ),
        wrong(
            "the table in q",
            |w, c| {
                c.bindings.q.binding.buffer = &w.wrong.large;
                c.bindings.rotation.table.binding.buffer = &w.wrong.large;
            },
            error!(Overlap { a: "cos_sin", b: "q" }),
        ),
    ];
    let world = World::new().unwrap();
    let problem = RopeProblem { in_place: true, ..RopeProblem::new(2, 1, 16) };
    let kernel = lab().rope(&problem).unwrap();
    run_table(&table, |wrong| world.refuse(&kernel, wrong));
}
