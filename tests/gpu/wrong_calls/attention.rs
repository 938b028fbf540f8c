//! Wrong calls of an attention kernel that has all that there is: split outputs, log-sum-exp, key
//! lengths, and queries that it rotates by ids.

use phasor::attention::{
    Attention, AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape, Outputs,
};
use phasor::cache::CacheType;
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation, TableShape};
use phasor::{DType, HeadMap, Layout, Tensor, wgpu};

use super::{Expected, Wrongs, bind_silently, error, range};
use crate::{
    attention::small_tile,
    harness::{Lab, Result, lab, random, run_table},
};

/// Sizes of the right call.
const B: u32 = 2;
const S_Q: u32 = 5;
const S_K: u32 = 7;
const D: u32 = 16;

pub struct World {
    pub wrong: Wrongs,
    pub q: wgpu::Buffer,
    pub kv: wgpu::Buffer,
    pub out: wgpu::Buffer,
    pub out_im: wgpu::Buffer,
    pub lse: wgpu::Buffer,
    pub lens: wgpu::Buffer,
    pub ids: wgpu::Buffer,
    pub table: wgpu::Buffer,
    pub table_shape: TableShape,
}

pub struct Call<'a> {
    pub shape: AttentionShape,
    pub bindings: AttentionBindings<'a>,
}

/// What is done to a right call, and what comes of it.
pub struct Wrong {
    pub twist: for<'a> fn(&'a World, &mut Call<'a>),
    pub expected: Expected,
}

pub fn wrong(
    name: &str,
    twist: for<'a> fn(&'a World, &mut Call<'a>),
    expected: Expected,
) -> (String, Wrong) {
    (name.to_owned(), Wrong { twist, expected })
}

/// All that there is: 9 storage buffers.
pub fn problem() -> phasor::Result<AttentionProblem> {
    Ok(AttentionProblem {
        outputs: Outputs::Split,
        rotate_q: true,
        lse: true,
        ..AttentionProblem::new(HeadMap::ropepp(2)?, 1, D)
    })
}

pub fn kernel(lab: &Lab, problem: &AttentionProblem) -> Result<Attention> {
    let plan = AttentionPlan::with_tile(problem, &lab.gpu.capabilities(), small_tile(D))?;
    lab.attention(&plan)
}

impl World {
    pub fn new(lab: &Lab) -> Result<Self> {
        let gpu = &lab.gpu;
        let data = |shape, seed| gpu.upload(&random(shape, 1.0, DType::F32, seed), DType::F32);
        let table = RopeConfig::new(D, 10_000.0).table(64, 64)?;
        Ok(Self {
            wrong: Wrongs::new(gpu),
            q: data([B, 2, S_Q, D], 1),
            kv: data([B, 1, S_K, D], 2),
            out: gpu.output((B * 2 * S_Q * D) as usize, DType::F32),
            out_im: gpu.output((B * 2 * S_Q * D) as usize, DType::F32),
            lse: gpu.output((B * 4 * S_Q) as usize, DType::F32),
            lens: gpu.upload_u32(&[7, 4, 0, 0]),
            ids: gpu.upload_u32(&[3; 16]),
            table: gpu.upload_bytes(table.as_bytes()),
            table_shape: table.shape()?,
        })
    }

    pub fn table(&self) -> CosSin<'_> {
        CosSin { binding: self.table.as_entire_buffer_binding(), shape: self.table_shape }
    }

    pub fn ids(&self) -> Positions<'_> {
        let binding = self.ids.as_entire_buffer_binding();
        Positions::Ids { binding, batch_stride: S_Q, stream_stride: 0 }
    }

    /// The tensors that every call has, and key lengths.
    pub fn plain(&self) -> phasor::Result<Call<'_>> {
        let q = Layout::bhsd([B, 2, S_Q, D])?;
        let kv = Layout::bhsd([B, 1, S_K, D])?;
        let tensor = |buffer, layout| Tensor::new(buffer, DType::F32, layout);
        let (k, v) = (tensor(&self.kv, kv), tensor(&self.kv, kv));
        let mut bindings = AttentionBindings::new(tensor(&self.q, q), k, v, tensor(&self.out, q));
        bindings.kv_lens = Some(self.lens.as_entire_buffer_binding());
        Ok(Call { shape: AttentionShape::new(B, S_Q, S_K), bindings })
    }

    pub fn full(&self) -> phasor::Result<Call<'_>> {
        let mut call = self.plain()?;
        let out = call.bindings.out.layout;
        call.bindings.out_im = Some(Tensor::new(&self.out_im, DType::F32, out));
        call.bindings.lse = Some(self.lse.as_entire_buffer_binding());
        call.bindings.rotation = Some(Rotation::new(self.table(), self.ids()));
        Ok(call)
    }

    /// What the outputs hold.
    fn outputs(&self, lab: &Lab) -> Vec<u8> {
        [&self.out, &self.out_im, &self.lse].map(|buffer| lab.gpu.download_bytes(buffer)).concat()
    }

    /// Runs a right call and says what it gave.
    fn run(&self, lab: &Lab, kernel: &Attention, call: &Call<'_>) -> Result<Vec<u8>> {
        for output in [&self.out, &self.out_im, &self.lse] {
            lab.gpu.queue.write_buffer(output, 0, &vec![0xff; output.size() as usize]);
        }
        let dispatch = kernel.bind(&lab.gpu.device, &call.shape, &call.bindings)?;
        lab.gpu.run(|encoder| dispatch.encode(encoder));
        Ok(self.outputs(lab))
    }

    /// Twists a right call into a wrong one, has it refused, and runs the right call again.
    pub fn refuse(
        &self,
        lab: &Lab,
        kernel: &Attention,
        right: fn(&Self) -> phasor::Result<Call<'_>>,
        wrong: &Wrong,
    ) -> Result {
        let before = self.run(lab, kernel, &right(self)?)?;
        let mut call = right(self)?;
        (wrong.twist)(self, &mut call);
        let bind = || kernel.bind(&lab.gpu.device, &call.shape, &call.bindings);
        wrong.expected.check(bind_silently(&lab.gpu, bind)?)?;
        if self.outputs(lab) != before {
            return Err("the refused call has changed an output".into());
        }
        match self.run(lab, kernel, &right(self)?)? == before {
            true => Ok(()),
            false => Err("a right call after it gives something else".into()),
        }
    }
}

#[test]
fn shapes_strides_and_types() {
    let table = [
        wrong(
            "a head too many in q",
            |_, c| c.bindings.q.layout.shape[1] = 3,
            error!(Shape { tensor: "q", needed: [2, 2, 5, 16], got: [2, 3, 5, 16] }),
        ),
        wrong(
            "a longer call than q",
            |_, c| c.shape.seq_q = 6,
            error!(Shape { tensor: "q", needed: [2, 2, 6, 16], .. }),
        ),
        wrong(
            "a smaller batch than q's",
            |_, c| c.shape.batch = 1,
            error!(Shape { tensor: "q", .. }),
        ),
        wrong(
            "another head_dim in q",
            |_, c| c.bindings.q.layout.shape[3] = 24,
            error!(Shape { tensor: "q", .. }),
        ),
        wrong("more keys than k has", |_, c| c.shape.seq_k = 8, error!(Shape { tensor: "k", .. })),
        wrong(
            "as many kv heads as query heads",
            |_, c| c.bindings.cache.k.layout.shape[1] = 2,
            error!(Shape { tensor: "k", .. }),
        ),
        wrong(
            "values of another length",
            |_, c| c.bindings.cache.v.layout.shape[2] = 6,
            error!(Shape { tensor: "v", .. }),
        ),
        wrong(
            "another value_dim",
            |_, c| c.bindings.cache.v.layout.shape[3] = 8,
            error!(Shape { tensor: "v", .. }),
        ),
        wrong(
            "merged heads in out",
            |_, c| c.bindings.out.layout.shape[1] = 4,
            error!(Shape { tensor: "out", .. }),
        ),
        wrong(
            "another value_dim in out_im",
            |_, c| c.bindings.out_im.iter_mut().for_each(|t| t.layout.shape[3] = 8),
            error!(Shape { tensor: "out_im", .. }),
        ),
        wrong(
            "a batch stride between quads",
            |_, c| c.bindings.q.layout.strides[0] += 2,
            error!(Stride { tensor: "q", what: "batch stride", .. }),
        ),
        wrong(
            "a head stride between quads",
            |_, c| c.bindings.out.layout.strides[1] += 1,
            error!(Stride { tensor: "out", what: "head stride", .. }),
        ),
        wrong(
            "a row stride between quads",
            |_, c| c.bindings.cache.v.layout.strides[2] = 17,
            error!(Stride { tensor: "v", what: "position stride", got: 17, .. }),
        ),
        wrong(
            "an offset between quads",
            |_, c| c.bindings.cache.k.layout.offset = 2,
            error!(Stride { tensor: "k", what: "offset", got: 2, .. }),
        ),
        wrong(
            "f16 queries",
            |_, c| c.bindings.q.dtype = DType::F16,
            error!(DType { tensor: "q", needed: DType::F32, got: DType::F16 }),
        ),
        wrong(
            "f16 keys",
            |_, c| c.bindings.cache.k.stored = CacheType::F16,
            error!(CacheType { tensor: "k", .. }),
        ),
        wrong(
            "f16 values",
            |_, c| c.bindings.cache.v.stored = CacheType::F16,
            error!(CacheType { tensor: "v", .. }),
        ),
        wrong(
            "f16 outputs",
            |_, c| c.bindings.out.dtype = DType::F16,
            error!(DType { tensor: "out", .. }),
        ),
        wrong(
            "rows of out over one another",
            |_, c| c.bindings.out.layout.strides[2] = 12,
            error!(SelfOverlap { tensor: "out", .. }),
        ),
        wrong(
            "one head of out for all",
            |_, c| c.bindings.out.layout.strides[1] = 0,
            error!(SelfOverlap { tensor: "out", .. }),
        ),
        wrong(
            "one batch of out_im for all",
            |_, c| c.bindings.out_im.iter_mut().for_each(|t| t.layout.strides[0] = 0),
            error!(SelfOverlap { tensor: "out_im", .. }),
        ),
        wrong(
            "a stride past 32 bits",
            |_, c| c.bindings.q.layout.strides[0] = u32::MAX - 3,
            error!(IndexOverflow { tensor: "q", .. }),
        ),
        wrong(
            "an offset past 32 bits",
            |_, c| c.bindings.cache.v.layout.offset = u32::MAX - 3,
            error!(IndexOverflow { tensor: "v", .. }),
        ),
        wrong(
            "a query offset at the end",
            |_, c| c.shape.query_offset = Some(i32::MAX),
            error!(IndexOverflow { .. }),
        ),
        wrong(
            "a query offset at the start",
            |_, c| c.shape.query_offset = Some(i32::MIN),
            error!(IndexOverflow { .. }),
        ),
    ];
    let (world, kernel) = (World::new(lab()).unwrap(), kernel(lab(), &problem().unwrap()).unwrap());
    run_table(&table, |wrong| world.refuse(lab(), &kernel, World::full, wrong));
}

#[test]
fn bindings() {
    let table = [
        wrong(
            "a row of q too few",
            |w, c| c.bindings.q.binding = range(&w.q, 0, 64 * 19),
            error!(BindingTooSmall { tensor: "q", needed: 1280, available: 1216 }),
        ),
        wrong(
            "a k that reaches too far",
            |_, c| c.bindings.cache.k.layout.strides[0] += 4,
            error!(BindingTooSmall { tensor: "k", .. }),
        ),
        wrong(
            "a v that starts too late",
            |_, c| c.bindings.cache.v.layout.offset = 4,
            error!(BindingTooSmall { tensor: "v", .. }),
        ),
        wrong(
            "a size beyond the buffer",
            |w, c| c.bindings.out.binding = range(&w.out, 0, 1 << 20),
            error!(BindingTooSmall { tensor: "out", .. }),
        ),
        wrong(
            "an offset beyond the buffer",
            |w, c| c.bindings.out.binding.offset = w.out.size() + 256,
            error!(BindingTooSmall { tensor: "out", available: 0, .. }),
        ),
        wrong(
            "a small lse",
            |w, c| c.bindings.lse = Some(w.wrong.tiny.as_entire_buffer_binding()),
            error!(BindingTooSmall { tensor: "lse", needed: 160, available: 4 }),
        ),
        wrong(
            "one length for two batches",
            |w, c| c.bindings.kv_lens = Some(w.wrong.tiny.as_entire_buffer_binding()),
            error!(BindingTooSmall { tensor: "kv_lens", needed: 8, available: 4 }),
        ),
        wrong(
            "an offset that the device does not bind",
            |w, c| c.bindings.q.binding = range(&w.wrong.large, 4, 4096),
            error!(Alignment { tensor: "q", what: "binding offset", got: 4, .. }),
        ),
        wrong(
            "the same for lse",
            |w, c| c.bindings.lse = Some(range(&w.wrong.large, 8, 4096)),
            error!(Alignment { tensor: "lse", what: "binding offset", got: 8, .. }),
        ),
        wrong(
            "a size that is no whole word",
            |w, c| c.bindings.cache.k.binding = w.wrong.odd.as_entire_buffer_binding(),
            error!(Alignment { tensor: "k", what: "binding size", needed: 4, .. }),
        ),
        wrong(
            "q without STORAGE",
            |w, c| c.bindings.q.binding.buffer = &w.wrong.no_storage,
            error!(Usage { tensor: "q", needed: "STORAGE" }),
        ),
        wrong(
            "out_im without STORAGE",
            |w, c| {
                c.bindings.out_im.iter_mut().for_each(|t| t.binding.buffer = &w.wrong.no_storage)
            },
            error!(Usage { tensor: "out_im", .. }),
        ),
        wrong(
            "lse without STORAGE",
            |w, c| c.bindings.lse = Some(w.wrong.no_storage.as_entire_buffer_binding()),
            error!(Usage { tensor: "lse", .. }),
        ),
        wrong(
            "kv_lens without STORAGE",
            |w, c| c.bindings.kv_lens = Some(w.wrong.no_storage.as_entire_buffer_binding()),
            error!(Usage { tensor: "kv_lens", .. }),
        ),
        wrong(
            "out over q",
            |w, c| c.bindings.out.binding.buffer = &w.q,
            error!(Overlap { a: "q", b: "out" }),
        ),
        wrong(
            "out beside k and v",
            |w, c| {
                c.bindings.cache.k.binding = range(&w.wrong.large, 0, 4096);
                c.bindings.out.binding = range(&w.wrong.large, 4096, 4096);
            },
            error!(Overlap { a: "k", b: "out" }),
        ),
        wrong(
            "out_im over out",
            |w, c| c.bindings.out_im.iter_mut().for_each(|t| t.binding.buffer = &w.out),
            error!(Overlap { a: "out", b: "out_im" }),
        ),
        wrong(
            "out_im half over out",
            |w, c| {
                c.bindings.out.binding = range(&w.wrong.large, 0, 4096);
                c.bindings
                    .out_im
                    .iter_mut()
                    .for_each(|t| t.binding = range(&w.wrong.large, 2048, 4096));
            },
            error!(Overlap { a: "out", b: "out_im" }),
        ),
        wrong(
            "lse over v",
            |w, c| c.bindings.lse = Some(w.kv.as_entire_buffer_binding()),
            error!(Overlap { a: "k", b: "lse" }),
        ),
        wrong(
            "kv_lens in out",
            |w, c| c.bindings.kv_lens = Some(w.out.as_entire_buffer_binding()),
            error!(Overlap { a: "kv_lens", b: "out" }),
        ),
    ];
    let (world, kernel) = (World::new(lab()).unwrap(), kernel(lab(), &problem().unwrap()).unwrap());
    run_table(&table, |wrong| world.refuse(lab(), &kernel, World::full, wrong));
}

/// Two outputs in one buffer are fine as long as they lie apart.
#[test]
fn outputs_side_by_side() {
    let world = World::new(lab()).unwrap();
    let kernel = kernel(lab(), &problem().unwrap()).unwrap();
    let apart = world.run(lab(), &kernel, &world.full().unwrap()).unwrap();
    let mut call = world.full().unwrap();
    let size = world.out.size();
    let second = size.next_multiple_of(256);
    call.bindings.out.binding = range(&world.wrong.large, 0, size);
    call.bindings.out_im.as_mut().unwrap().binding = range(&world.wrong.large, second, size);
    world.run(lab(), &kernel, &call).unwrap();
    let both = lab().gpu.download_bytes(&world.wrong.large);
    let [first, second] = [0, second as usize].map(|at| &both[at..at + size as usize]);
    assert_eq!([first, second].concat(), apart[..2 * size as usize]);
}
