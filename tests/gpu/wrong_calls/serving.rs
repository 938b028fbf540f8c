//! Wrong calls of the kernels that serve: ragged and paged attention with all that can be bound,
//! appends, moves and decode over a paged cache.

use phasor::attention::{
    AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape, BlockList, Queries,
};
use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{DecodeBindings, DecodePlan, DecodeProblem, DecodeShape, Tile};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendPlan, KvAppendProblem, KvAppendShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation, TableShape};
use phasor::{Bias, DType, Error, HeadMap, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use super::{Call, World as _, Wrongs, calls, range, whole};
use crate::{
    attention::small_tile,
    harness::{Result, lab, random},
};

/// Sizes of the right calls: two sequences of up to two pages of 8 rows, a pool of five.
pub const B: u32 = 2;
const D: u32 = 16;
const PAGE: u32 = 8;
const POOL: u32 = 5;
const ROWS: u32 = 8;

pub struct World {
    pub wrong: Wrongs,
    pub q: wgpu::Buffer,
    pub k: wgpu::Buffer,
    pub v: wgpu::Buffer,
    pub new: wgpu::Buffer,
    pub out: wgpu::Buffer,
    pub lse: wgpu::Buffer,
    pub lens: wgpu::Buffer,
    pub cu_seqlens: wgpu::Buffer,
    pub pages: wgpu::Buffer,
    pub bias: wgpu::Buffer,
    pub blocks: wgpu::Buffer,
    pub workspace: wgpu::Buffer,
    pub table: wgpu::Buffer,
    pub table_shape: TableShape,
}

impl super::World for World {
    fn outputs(&self) -> Vec<&wgpu::Buffer> {
        vec![&self.out, &self.lse, &self.k, &self.v]
    }

    /// The caches are inputs as well.
    fn reset(&self, gpu: &Gpu) {
        for output in [&self.out, &self.lse] {
            gpu.queue.write_buffer(output, 0, &vec![0xff; output.size() as usize]);
        }
        for (buffer, seed) in [(&self.k, 2), (&self.v, 3)] {
            let data = random([POOL, 1, PAGE, D], 1.0, DType::F32, seed);
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&data));
        }
    }
}

impl World {
    pub fn new() -> Result<&'static Self> {
        let gpu = &lab().gpu;
        let data = |shape, seed| gpu.upload(&random(shape, 1.0, DType::F32, seed), DType::F32);
        let table = RopeConfig::new(D, 10_000.0).table(2 * PAGE, 16)?;
        Ok(Box::leak(Box::new(Self {
            wrong: Wrongs::new(gpu),
            q: data([1, 2, ROWS, D], 1),
            k: data([POOL, 1, PAGE, D], 2),
            v: data([POOL, 1, PAGE, D], 3),
            new: data([B, 1, 1, D], 4),
            out: gpu.output((4 * ROWS * D) as usize, DType::F32),
            lse: gpu.output((4 * ROWS) as usize, DType::F32),
            lens: gpu.upload_u32(&[9, 16, 0, 0]),
            cu_seqlens: gpu.upload_u32(&[0, 5, 8, 8]),
            pages: gpu.upload_u32(&[0, 1, 2, 4]),
            bias: data([B, 1, 5, 16], 5),
            blocks: gpu.upload_u32(&[1; 4]),
            workspace: gpu.output(1 << 12, DType::F32),
            table: gpu.upload_bytes(table.as_bytes()),
            table_shape: table.shape()?,
        })))
    }

    pub fn table(&self) -> CosSin<'_> {
        CosSin { binding: whole(&self.table), shape: self.table_shape }
    }
}

fn attention(w: &'static World) -> phasor::Result<Call<AttentionPlan>> {
    let tensor = |buffer, shape| -> phasor::Result<Tensor<'static>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
    };
    let bias = Layout { shape: [B, 4, 5, 16], strides: [80, 0, 16], offset: 0 };
    let bindings = AttentionBindings {
        cu_seqlens_q: Some(whole(&w.cu_seqlens)),
        bias: Some((bias, whole(&w.bias))),
        prefix_lens: Some(whole(&w.lens)),
        block_list: Some(BlockList { binding: whole(&w.blocks), per_batch: true }),
        ..AttentionBindings::over(
            tensor(&w.q, [1, 2, ROWS, D])?,
            cache(w)?,
            whole(&w.lens),
            tensor(&w.out, [1, 4, ROWS, D])?,
        )
    };
    Ok((AttentionShape::new(B, 5, 16), bindings))
}

#[test]
fn ragged_and_paged_attention() {
    let table = calls! { World, AttentionPlan, |w, s, b|
        "no cu_seqlens_q": b.cu_seqlens_q = None => Binding { tensor: "cu_seqlens_q", .. };
        "a length a sequence, and no end": b.cu_seqlens_q = Some(range(&w.cu_seqlens, 0, 8))
            => BindingTooSmall { tensor: "cu_seqlens_q", needed: 12, available: 8 };
        "cu_seqlens_k of paged keys": b.cu_seqlens_k = Some(whole(&w.cu_seqlens))
            => Binding { tensor: "cu_seqlens_k", .. };
        "ragged queries as batches": b.q.layout.shape = [B, 2, 4, D] => Shape { tensor: "q", .. };
        "no block table": b.cache.block_table = None => Binding { tensor: "block_table", .. };
        "a block table of one sequence":
            b.cache.block_table.iter_mut().for_each(|t| t.binding = range(&w.pages, 0, 8))
            => BindingTooSmall { tensor: "block_table", needed: 16, available: 8 };
        "more keys than the block table has pages for": s.seq_k = 17
            => Invalid { what: "seq_k", .. };
        "pages of 4 rows": b.cache.k.layout.shape[2] = 4 => Invalid { what: "page_size", .. };
        "keys in f16": b.cache.k.stored = CacheType::F16
            => CacheType { tensor: "k_cache", needed: CacheType::F32, .. };
        "a pool without pages": { b.cache.k.layout.shape[0] = 0; b.cache.v.layout.shape[0] = 0 }
            => Shape { tensor: "k_cache", .. };
        "no bias": b.bias = None => Binding { tensor: "bias", .. };
        "a bias of fewer keys": b.bias.iter_mut().for_each(|(layout, _)| layout.shape[3] = 15)
            => Shape { tensor: "bias", needed: [2, 4, 5, 16], got: [2, 4, 5, 15] };
        "a bias that reaches too far":
            b.bias.iter_mut().for_each(|(layout, _)| layout.strides[1] = 16)
            => BindingTooSmall { tensor: "bias", .. };
        "a bias in out": {
            let out = whole(&w.out);
            b.bias.iter_mut().for_each(|(_, binding)| *binding = out.clone());
        } => Overlap { a: "bias", b: "out" };
        "no prefix lengths": b.prefix_lens = None => Binding { tensor: "prefix_lens", .. };
        "one prefix length for two": b.prefix_lens = Some(whole(&w.wrong.tiny))
            => BindingTooSmall { tensor: "prefix_lens", needed: 8, available: 4 };
        "no block list": b.block_list = None => Binding { tensor: "block_list", .. };
        "a block list for a batch of one":
            b.block_list = Some(BlockList { binding: whole(&w.wrong.tiny), per_batch: true })
            => BindingTooSmall { tensor: "block_list", needed: 8, available: 4 };
        "a block list without STORAGE":
            b.block_list = Some(BlockList { binding: whole(&w.wrong.no_storage), per_batch: true })
            => Usage { tensor: "block_list", .. };
    };
    let problem = AttentionProblem {
        queries: Queries::Ragged,
        bias: Some(Bias::Additive),
        prefix: true,
        block_list: true,
        ..AttentionProblem::over(HeadMap::ropepp(2).unwrap(), format())
    };
    let caps = lab().gpu.capabilities();
    let plan = match AttentionPlan::with_tile(&problem, &caps, small_tile(D)) {
        Ok(plan) => plan,
        // Every tensor at once is more than some devices bind: that is the one wrong call there.
        Err(error) => {
            let limit = "max_storage_buffers_per_shader_stage";
            assert_eq!(
                error,
                Error::Limit {
                    limit,
                    what: "attention",
                    needed: 11,
                    available: caps.max_storage_buffers.into(),
                }
            );
            assert!(caps.max_storage_buffers < 11);
            return;
        }
    };
    let kernel = lab().attention(&plan).unwrap();
    World::new().unwrap().refuse(lab(), &kernel, attention, &table);
}

pub fn cache(w: &'static World) -> phasor::Result<CacheBindings<'static>> {
    let layout = Layout::bhsd([POOL, 1, PAGE, D])?;
    let side = |buffer: &'static wgpu::Buffer| CacheTensor {
        binding: whole(buffer),
        stored: CacheType::F32,
        layout,
    };
    let binding = whole(&w.pages);
    let block_table = Some(BlockTable { binding, max_pages: 2 });
    Ok(CacheBindings { k: side(&w.k), v: side(&w.v), block_table })
}

pub fn format() -> CacheFormat {
    CacheFormat { paged: true, ..CacheFormat::new(1, D) }
}

fn decode(w: &'static World) -> phasor::Result<Call<DecodePlan>> {
    let bindings = DecodeBindings {
        q: Tensor::new(&w.q, DType::F32, Layout::bhsd([B, 2, 2, D])?),
        cache: cache(w)?,
        kv_lens: whole(&w.lens),
        out: Tensor::new(&w.out, DType::F32, Layout::bhsd([B, 4, 2, D])?),
        lse: Some(whole(&w.lse)),
        rotation: Some(Rotation::new(w.table(), Positions::AmongKeys)),
        bias: None,
        workspace: Some(whole(&w.workspace)),
    };
    Ok((DecodeShape { batch: B, seq_q: 2 }, bindings))
}

/// Changes of a cache that every kernel refuses.
macro_rules! cache_calls {
    ($plan:ty) => {
        calls! { World, $plan, |w, s, b|
            "a cache in f16": b.cache.k.stored = CacheType::F16
                => CacheType { tensor: "k_cache", needed: CacheType::F32, .. };
            "no block table": b.cache.block_table = None => Binding { tensor: "block_table", .. };
            "a block table of one sequence":
                b.cache.block_table.iter_mut().for_each(|t| t.binding = range(&w.pages, 0, 8))
                => BindingTooSmall { tensor: "block_table", needed: 16, available: 8 };
            "a block table past 32 bits": {
                let max_pages = u32::MAX;
                b.cache.block_table = Some(BlockTable { binding: whole(&w.pages), max_pages });
            } => IndexOverflow { tensor: "block_table", .. };
            "pages of 12 rows": b.cache.k.layout.shape[2] = 12 => Invalid { what: "page_size", .. };
            "values on fewer pages than keys": b.cache.v.layout.shape[0] = 4
                => Shape { tensor: "v_cache", needed: [5, 1, 8, 16], got: [4, 1, 8, 16] };
            "a cache that is too small": b.cache.v.binding = range(&w.v, 0, 2048)
                => BindingTooSmall { tensor: "v_cache", needed: 2560, available: 2048 };
        }
    };
}
pub(super) use cache_calls;

/// Changes of a table that has to reach every slot.
macro_rules! table_calls {
    ($plan:ty) => {
        calls! { World, $plan, |w, s, b|
            "no table": b.rotation = None => Binding { tensor: "rotation", .. };
            "a slot past the table": {
                let mut table = w.table();
                table.shape.positions = 15;
                b.rotation = Some(Rotation::new(table, Positions::AmongKeys));
            } => TableTooShort { needed: 15, available: 15 };
        }
    };
}

#[test]
pub fn decode_over_pages() {
    let table = calls! { World, DecodePlan, |w, s, b|
        "a sequence too many": s.batch = 3 => Invalid { what: "batch", .. };
        "a row too many": s.seq_q = 3 => Invalid { what: "seq_q", .. };
        "f16 queries": b.q.dtype = DType::F16
            => DType { tensor: "q", needed: DType::F32, got: DType::F16 };
        "a row of q for two": b.q.layout.shape[2] = 1 => Shape { tensor: "q", .. };
        "one length for two": b.kv_lens = whole(&w.wrong.tiny)
            => BindingTooSmall { tensor: "kv_lens", needed: 8, available: 4 };
        "no lse": b.lse = None => Binding { tensor: "lse", .. };
        "a bias that was not planned": {
            let layout = Layout::bhsd([B, 4, 2, 16]).expect("a layout");
            b.bias = Some((layout, whole(&w.workspace)));
        } => Binding { tensor: "bias", .. };
        "no workspace": b.workspace = None => Binding { tensor: "workspace", .. };
        "a small workspace": b.workspace = Some(range(&w.workspace, 0, 256))
            => BindingTooSmall { tensor: "workspace", available: 256, .. };
        "a workspace in out": {
            b.out.binding = whole(&w.wrong.large);
            b.workspace = Some(whole(&w.wrong.large));
        } => Overlap { a: "out", b: "workspace" };
        "out in the cache": b.out.binding = whole(&w.k) => Overlap { a: "k_cache", b: "out" };
        "one row of out for two": b.out.layout.strides[2] = 0 => SelfOverlap { tensor: "out", .. };
        "a row stride between quads": b.cache.k.layout.strides[2] += 2
            => Stride { tensor: "k_cache", .. };
        "a cache that starts too late": b.cache.k.layout.offset += 1 << 20
            => BindingTooSmall { tensor: "k_cache", .. };
    };
    let problem = DecodeProblem {
        max_seq_q: 2,
        rotate_q: true,
        lse: true,
        ..DecodeProblem::new(HeadMap::ropepp(2).unwrap(), format(), B, 16)
    };
    let tile = Tile::new(16, 1, 4);
    let plan = DecodePlan::with_parts(&problem, &lab().gpu.capabilities(), tile, 2).unwrap();
    let kernel = lab().decode(&plan).unwrap();
    let (cache, slots) = (cache_calls!(DecodePlan), table_calls!(DecodePlan));
    let table = table.iter().chain(&cache).chain(&slots);
    World::new().unwrap().refuse(lab(), &kernel, decode, table);
}

fn append(w: &'static World) -> phasor::Result<Call<KvAppendPlan>> {
    let new = Tensor::new(&w.new, DType::F32, Layout::bhsd([B, 1, 1, D])?);
    let bindings = KvAppendBindings {
        k: new.clone(),
        v: new,
        cache: cache(w)?,
        lens: whole(&w.lens),
        rotation: Some(Rotation::new(w.table(), Positions::AmongKeys)),
    };
    Ok((KvAppendShape::new(B, 1), bindings))
}

#[test]
pub fn appends_to_pages() {
    let table = calls! { World, KvAppendPlan, |w, s, b|
        "more rows than a sequence can have": {
            s.seq = 17;
            let long = Layout { shape: [B, 1, 17, D], strides: [0; 3], offset: 0 };
            (b.k.layout, b.v.layout) = (long, long);
        } => CacheFull { sequence: 0, needed: 17, capacity: 16 };
        "two sequences with rows for one": b.k.layout.shape[0] = 1 => Shape { tensor: "k", .. };
        "one length for two": b.lens = whole(&w.wrong.tiny)
            => BindingTooSmall { tensor: "lens", needed: 8, available: 4 };
        "ragged rows without their starts": {
            s.ragged = Some(2);
            for new in [&mut b.k, &mut b.v] { new.layout.shape = [1, 1, 2, D] }
        } => BindingTooSmall { tensor: "lens", needed: 20, available: 16 };
        "new rows within the cache": b.k.binding = whole(&w.k) => Overlap { a: "k", b: "k_cache" };
        "values over the keys": b.cache.v.binding = whole(&w.k)
            => Overlap { a: "k_cache", b: "v_cache" };
        "all pages over one": b.cache.k.layout.strides[0] = 0
            => SelfOverlap { tensor: "k_cache", .. };
        "f16 rows": b.v.dtype = DType::F16 => DType { tensor: "v", .. };
    };
    let plan = KvAppendProblem::new(format()).plan(&lab().gpu.capabilities()).unwrap();
    let kernel = KvAppend::new(&lab().gpu.device, &plan).unwrap();
    let (cache, slots) = (cache_calls!(KvAppendPlan), table_calls!(KvAppendPlan));
    let table = table.iter().chain(&cache).chain(&slots);
    World::new().unwrap().refuse(lab(), &kernel, append, table);
}
