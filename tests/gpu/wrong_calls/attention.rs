//! Wrong calls of an attention kernel that has all that there is: split outputs, log-sum-exp, key
//! lengths, and queries that it rotates by ids.

use phasor::attention::{
    Attention, AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape, Outputs,
};
use phasor::cache::CacheType;
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation, TableShape};
use phasor::{DType, HeadMap, Layout, Tensor, wgpu};

use super::{TOO_FAR, Wrongs, calls, ids, range, whole};
use crate::{
    attention::small_tile,
    harness::{Lab, Result, lab, random},
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

pub type Call = super::Call<AttentionPlan>;

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

impl super::World for World {
    fn outputs(&self) -> Vec<&wgpu::Buffer> {
        vec![&self.out, &self.out_im, &self.lse]
    }
}

impl World {
    pub fn new(lab: &Lab) -> Result<&'static Self> {
        let gpu = &lab.gpu;
        let data = |shape, seed| gpu.upload(&random(shape, 1.0, DType::F32, seed), DType::F32);
        let table = RopeConfig::new(D, 10_000.0).table(64, 64)?;
        Ok(Box::leak(Box::new(Self {
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
        })))
    }

    pub fn table(&self) -> CosSin<'_> {
        CosSin { binding: whole(&self.table), shape: self.table_shape }
    }

    pub fn ids(&self) -> Positions<'_> {
        ids(whole(&self.ids), S_Q)
    }

    /// The tensors that every call has, and key lengths.
    pub fn plain(&'static self) -> phasor::Result<Call> {
        let q = Layout::bhsd([B, 2, S_Q, D])?;
        let kv = Layout::bhsd([B, 1, S_K, D])?;
        let tensor = |buffer, layout| Tensor::new(buffer, DType::F32, layout);
        let (k, v) = (tensor(&self.kv, kv), tensor(&self.kv, kv));
        let mut bindings = AttentionBindings::new(tensor(&self.q, q), k, v, tensor(&self.out, q));
        bindings.kv_lens = Some(whole(&self.lens));
        Ok((AttentionShape::new(B, S_Q, S_K), bindings))
    }

    pub fn full(&'static self) -> phasor::Result<Call> {
        let (shape, mut bindings) = self.plain()?;
        let out = bindings.out.layout;
        bindings.out_im = Some(Tensor::new(&self.out_im, DType::F32, out));
        bindings.lse = Some(whole(&self.lse));
        bindings.rotation = Some(Rotation::new(self.table(), self.ids()));
        Ok((shape, bindings))
    }
}

#[test]
pub fn shapes_strides_and_types() {
    let table = calls! { World, AttentionPlan, |w, s, b|
        "a head too many in q": b.q.layout.shape[1] = 3
            => Shape { tensor: "q", needed: [2, 2, 5, 16], got: [2, 3, 5, 16] };
        "a longer call than q": s.seq_q = 6 => Shape { tensor: "q", needed: [2, 2, 6, 16], .. };
        "a smaller batch than q's": s.batch = 1 => Shape { tensor: "q", .. };
        "another head_dim in q": b.q.layout.shape[3] = 24 => Shape { tensor: "q", .. };
        "more keys than k has": s.seq_k = 8 => Shape { tensor: "k", .. };
        "as many kv heads as query heads": b.cache.k.layout.shape[1] = 2
            => Shape { tensor: "k", .. };
        "values of another length": b.cache.v.layout.shape[2] = 6 => Shape { tensor: "v", .. };
        "another value_dim": b.cache.v.layout.shape[3] = 8 => Shape { tensor: "v", .. };
        "merged heads in out": b.out.layout.shape[1] = 4 => Shape { tensor: "out", .. };
        "another value_dim in out_im": b.out_im.iter_mut().for_each(|t| t.layout.shape[3] = 8)
            => Shape { tensor: "out_im", .. };
        "a batch stride between quads": b.q.layout.strides[0] += 2
            => Stride { tensor: "q", what: "batch stride", .. };
        "a head stride between quads": b.out.layout.strides[1] += 1
            => Stride { tensor: "out", what: "head stride", .. };
        "a row stride between quads": b.cache.v.layout.strides[2] = 17
            => Stride { tensor: "v", what: "position stride", got: 17, .. };
        "an offset between quads": b.cache.k.layout.offset = 2
            => Stride { tensor: "k", what: "offset", got: 2, .. };
        "f16 queries": b.q.dtype = DType::F16
            => DType { tensor: "q", needed: DType::F32, got: DType::F16 };
        "f16 keys": b.cache.k.stored = CacheType::F16 => CacheType { tensor: "k", .. };
        "f16 values": b.cache.v.stored = CacheType::F16 => CacheType { tensor: "v", .. };
        "f16 outputs": b.out.dtype = DType::F16 => DType { tensor: "out", .. };
        "rows of out over one another": b.out.layout.strides[2] = 12
            => SelfOverlap { tensor: "out", .. };
        "one head of out for all": b.out.layout.strides[1] = 0 => SelfOverlap { tensor: "out", .. };
        "one batch of out_im for all": b.out_im.iter_mut().for_each(|t| t.layout.strides[0] = 0)
            => SelfOverlap { tensor: "out_im", .. };
        "a stride past 32 bits": b.q.layout.strides[0] = u32::MAX - 3
            => IndexOverflow { tensor: "q", .. };
        "an offset past 32 bits": b.cache.v.layout.offset = u32::MAX - 3
            => IndexOverflow { tensor: "v", .. };
        "a query past all keys": s.query_offset = Some(TOO_FAR)
            => IndexOverflow { tensor: "query_offset, seq_q or seq_k", .. };
        "a query before all keys": s.query_offset = Some(-TOO_FAR) => IndexOverflow { .. };
        "a query offset at the start": s.query_offset = Some(i32::MIN) => IndexOverflow { .. };
    };
    let (world, kernel) = (World::new(lab()).unwrap(), kernel(lab(), &problem().unwrap()).unwrap());
    super::World::refuse(world, lab(), &kernel, World::full, &table);
}

#[test]
fn bindings() {
    let table = calls! { World, AttentionPlan, |w, s, b|
        "a row of q too few": b.q.binding = range(&w.q, 0, 64 * 19)
            => BindingTooSmall { tensor: "q", needed: 1280, available: 1216 };
        "a k that reaches too far": b.cache.k.layout.strides[0] += 4
            => BindingTooSmall { tensor: "k", .. };
        "a v that starts too late": b.cache.v.layout.offset = 4
            => BindingTooSmall { tensor: "v", .. };
        "a size beyond the buffer": b.out.binding = range(&w.out, 0, 1 << 20)
            => BindingTooSmall { tensor: "out", .. };
        "an offset beyond the buffer": b.out.binding.offset = w.out.size() + 256
            => BindingTooSmall { tensor: "out", available: 0, .. };
        "a small lse": b.lse = Some(whole(&w.wrong.tiny))
            => BindingTooSmall { tensor: "lse", needed: 160, available: 4 };
        "one length for two batches": b.kv_lens = Some(whole(&w.wrong.tiny))
            => BindingTooSmall { tensor: "kv_lens", needed: 8, available: 4 };
        "an offset that the device does not bind": b.q.binding = range(&w.wrong.large, 4, 4096)
            => Alignment { tensor: "q", what: "binding offset", got: 4, .. };
        "the same for lse": b.lse = Some(range(&w.wrong.large, 8, 4096))
            => Alignment { tensor: "lse", what: "binding offset", got: 8, .. };
        "a size that is no whole word": b.cache.k.binding = whole(&w.wrong.odd)
            => Alignment { tensor: "k", what: "binding size", needed: 4, .. };
        "q without STORAGE": b.q.binding.buffer = &w.wrong.no_storage
            => Usage { tensor: "q", needed: "STORAGE" };
        "out_im without STORAGE":
            b.out_im.iter_mut().for_each(|t| t.binding.buffer = &w.wrong.no_storage)
            => Usage { tensor: "out_im", .. };
        "lse without STORAGE": b.lse = Some(whole(&w.wrong.no_storage))
            => Usage { tensor: "lse", .. };
        "kv_lens without STORAGE": b.kv_lens = Some(whole(&w.wrong.no_storage))
            => Usage { tensor: "kv_lens", .. };
        "out over q": b.out.binding.buffer = &w.q => Overlap { a: "q", b: "out" };
        "out beside k and v": {
            b.cache.k.binding = range(&w.wrong.large, 0, 4096);
            b.out.binding = range(&w.wrong.large, 4096, 4096);
        } => Overlap { a: "k", b: "out" };
        "out_im over out": b.out_im.iter_mut().for_each(|t| t.binding.buffer = &w.out)
            => Overlap { a: "out", b: "out_im" };
        "out_im half over out": {
            b.out.binding = range(&w.wrong.large, 0, 4096);
            b.out_im.iter_mut().for_each(|t| t.binding = range(&w.wrong.large, 2048, 4096));
        } => Overlap { a: "out", b: "out_im" };
        "lse over v": b.lse = Some(whole(&w.kv)) => Overlap { a: "k", b: "lse" };
        "kv_lens in out": b.kv_lens = Some(whole(&w.out)) => Overlap { a: "kv_lens", b: "out" };
    };
    let (world, kernel) = (World::new(lab()).unwrap(), kernel(lab(), &problem().unwrap()).unwrap());
    super::World::refuse(world, lab(), &kernel, World::full, &table);
}

/// Two outputs in one buffer are fine as long as they lie apart.
#[test]
fn outputs_side_by_side() {
    let world = World::new(lab()).unwrap();
    let kernel = kernel(lab(), &problem().unwrap()).unwrap();
    let run = |call| super::World::run(world, lab(), &kernel, &call).unwrap();
    let apart = run(world.full().unwrap());
    let (shape, mut bindings) = world.full().unwrap();
    let size = world.out.size();
    let second = size.next_multiple_of(256);
    bindings.out.binding = range(&world.wrong.large, 0, size);
    bindings.out_im.as_mut().unwrap().binding = range(&world.wrong.large, second, size);
    run((shape, bindings));
    let both = lab().gpu.download_bytes(&world.wrong.large);
    let [first, second] = [0, second as usize].map(|at| &both[at..at + size as usize]);
    assert_eq!([first, second].concat(), apart[..2 * size as usize]);
}
