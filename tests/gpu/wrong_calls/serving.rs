//! Wrong calls of the kernels that serve: ragged and paged attention with all that can be bound,
//! appends and decode over a paged cache.

use phasor::attention::{
    AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape, BlockList, Queries,
};
use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{Decode, DecodeBindings, DecodePlan, DecodeProblem, DecodeShape, Tile};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation, TableShape};
use phasor::{Bias, DType, Error, HeadMap, Layout, Tensor, wgpu};

use super::{Expected, Wrongs, bind_silently, error, range};
use crate::{
    attention::small_tile,
    harness::{Result, lab, random, run_table},
};

/// Sizes of the right calls: two sequences of up to two pages of 8 rows, a pool of five.
const B: u32 = 2;
const D: u32 = 16;
const PAGE: u32 = 8;
const POOL: u32 = 5;
const ROWS: u32 = 8;

struct World {
    wrong: Wrongs,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    new: wgpu::Buffer,
    out: wgpu::Buffer,
    lse: wgpu::Buffer,
    lens: wgpu::Buffer,
    cu_seqlens: wgpu::Buffer,
    pages: wgpu::Buffer,
    bias: wgpu::Buffer,
    blocks: wgpu::Buffer,
    workspace: wgpu::Buffer,
    table: wgpu::Buffer,
    table_shape: TableShape,
}

/// A wrong call: its name, what is done to a right one, what comes of it.
type Wrong<C> = (String, (fn(&'static World, &mut C), Expected));

fn wrong<C>(name: &str, twist: fn(&'static World, &mut C), expected: Expected) -> Wrong<C> {
    (name.to_owned(), (twist, expected))
}

impl World {
    /// Lives as long as the test binary, so that calls may borrow from it without ceremony.
    fn new() -> Result<&'static Self> {
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

    fn table(&self) -> CosSin<'_> {
        CosSin { binding: self.table.as_entire_buffer_binding(), shape: self.table_shape }
    }
}

/// Has every call of a table refused, between two right ones that must give the same.
fn refuse<C, K>(
    world: &'static World,
    kernel: &K,
    right: impl Fn(&'static World) -> phasor::Result<C>,
    bind: impl Fn(&K, &C) -> phasor::Result<phasor::Dispatch>,
    table: &[Wrong<C>],
) {
    let gpu = &lab().gpu;
    let run = || -> Result<Vec<u8>> {
        for output in [&world.out, &world.lse] {
            gpu.queue.write_buffer(output, 0, &vec![0xff; output.size() as usize]);
        }
        let call = bind(kernel, &right(world)?)?;
        gpu.run(|encoder| call.encode(encoder));
        Ok([&world.out, &world.lse, &world.k].map(|buffer| gpu.download_bytes(buffer)).concat())
    };
    let before = run().unwrap();
    run_table(table, |(twist, expected)| {
        let mut call = right(world)?;
        twist(world, &mut call);
        expected.check(bind_silently(gpu, || bind(kernel, &call))?)
    });
    assert!(run().unwrap() == before, "a right call after the wrong ones gives something else");
}

struct AttentionCall {
    shape: AttentionShape,
    bindings: AttentionBindings<'static>,
}

fn attention(w: &'static World) -> phasor::Result<AttentionCall> {
    let tensor = |buffer, shape| -> phasor::Result<Tensor<'static>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd(shape)?))
    };
    let bias = Layout { shape: [B, 4, 5, 16], strides: [80, 0, 16], offset: 0 };
    Ok(AttentionCall {
        shape: AttentionShape::new(B, 5, 16),
        bindings: AttentionBindings {
            cu_seqlens_q: Some(w.cu_seqlens.as_entire_buffer_binding()),
            bias: Some((bias, w.bias.as_entire_buffer_binding())),
            prefix_lens: Some(w.lens.as_entire_buffer_binding()),
            block_list: Some(BlockList {
                binding: w.blocks.as_entire_buffer_binding(),
                per_batch: true,
            }),
            ..AttentionBindings::over(
                tensor(&w.q, [1, 2, ROWS, D])?,
                cache(w)?,
                w.lens.as_entire_buffer_binding(),
                tensor(&w.out, [1, 4, ROWS, D])?,
            )
        },
    })
}

#[test]
fn ragged_and_paged_attention() {
    let table = [
        wrong(
            "no cu_seqlens_q",
            |_, c: &mut AttentionCall| c.bindings.cu_seqlens_q = None,
            error!(Binding { tensor: "cu_seqlens_q", .. }),
        ),
        wrong(
            "a length a sequence, and no end",
            |w, c| c.bindings.cu_seqlens_q = Some(range(&w.cu_seqlens, 0, 8)),
            error!(BindingTooSmall { tensor: "cu_seqlens_q", needed: 12, available: 8 }),
        ),
        wrong(
            "cu_seqlens_k of paged keys",
            |w, c| c.bindings.cu_seqlens_k = Some(w.cu_seqlens.as_entire_buffer_binding()),
            error!(Binding { tensor: "cu_seqlens_k", .. }),
        ),
        wrong(
            "ragged queries as batches",
            |_, c| c.bindings.q.layout.shape = [B, 2, 4, D],
            error!(Shape { tensor: "q", .. }),
        ),
        wrong(
            "no block table",
            |_, c| c.bindings.cache.block_table = None,
            error!(Binding { tensor: "block_table", .. }),
        ),
        wrong(
            "a block table of one sequence",
            |w, c| {
                c.bindings
                    .cache
                    .block_table
                    .iter_mut()
                    .for_each(|t| t.binding = range(&w.pages, 0, 8))
            },
            error!(BindingTooSmall { tensor: "block_table", needed: 16, available: 8 }),
        ),
        wrong(
            "more keys than the block table has pages for",
            |_, c| c.shape.seq_k = 17,
            error!(Invalid { what: "seq_k", .. }),
        ),
        wrong(
            "pages of 4 rows",
            |_, c| c.bindings.cache.k.layout.shape[2] = 4,
            error!(Invalid { what: "page_size", .. }),
        ),
        wrong(
            "keys in f16",
            |_, c| c.bindings.cache.k.stored = CacheType::F16,
            error!(CacheType { tensor: "k_cache", needed: CacheType::F32, .. }),
        ),
        wrong(
            "a pool without pages",
            |_, c| {
                c.bindings.cache.k.layout.shape[0] = 0;
                c.bindings.cache.v.layout.shape[0] = 0;
            },
            error!(Shape { tensor: "k_cache", .. }),
        ),
        wrong("no bias", |_, c| c.bindings.bias = None, error!(Binding { tensor: "bias", .. })),
        wrong(
            "a bias of fewer keys",
            |_, c| c.bindings.bias.iter_mut().for_each(|(layout, _)| layout.shape[3] = 15),
            error!(Shape { tensor: "bias", needed: [2, 4, 5, 16], got: [2, 4, 5, 15] }),
        ),
        wrong(
            "a bias that reaches too far",
            |_, c| c.bindings.bias.iter_mut().for_each(|(layout, _)| layout.strides[1] = 16),
            error!(BindingTooSmall { tensor: "bias", .. }),
        ),
        wrong(
            "a bias in out",
            |w, c| {
                let out = w.out.as_entire_buffer_binding();
                c.bindings.bias.iter_mut().for_each(|(_, binding)| *binding = out.clone());
            },
            error!(Overlap { a: "bias", b: "out" }),
        ),
        wrong(
            "no prefix lengths",
            |_, c| c.bindings.prefix_lens = None,
            error!(Binding { tensor: "prefix_lens", .. }),
        ),
        wrong(
            "one prefix length for two",
            |w, c| c.bindings.prefix_lens = Some(w.wrong.tiny.as_entire_buffer_binding()),
            error!(BindingTooSmall { tensor: "prefix_lens", needed: 8, available: 4 }),
        ),
        wrong(
            "no block list",
            |_, c| c.bindings.block_list = None,
            error!(Binding { tensor: "block_list", .. }),
        ),
        wrong(
            "a block list for a batch of one",
            |w, c| {
                let binding = w.wrong.tiny.as_entire_buffer_binding();
                c.bindings.block_list = Some(BlockList { binding, per_batch: true });
            },
            error!(BindingTooSmall { tensor: "block_list", needed: 8, available: 4 }),
        ),
        wrong(
            "a block list without STORAGE",
            |w, c| {
                let binding = w.wrong.no_storage.as_entire_buffer_binding();
                c.bindings.block_list = Some(BlockList { binding, per_batch: true });
            },
            error!(Usage { tensor: "block_list", .. }),
        ),
    ];
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
    let bind = |kernel: &phasor::attention::Attention, c: &AttentionCall| {
        kernel.bind(&lab().gpu.device, &c.shape, &c.bindings)
    };
    refuse(World::new().unwrap(), &kernel, attention, bind, &table);
}

fn cache(w: &'static World) -> phasor::Result<CacheBindings<'static>> {
    let layout = Layout::bhsd([POOL, 1, PAGE, D])?;
    let side = |buffer: &'static wgpu::Buffer| CacheTensor {
        binding: buffer.as_entire_buffer_binding(),
        stored: CacheType::F32,
        layout,
    };
    let binding = w.pages.as_entire_buffer_binding();
    let block_table = Some(BlockTable { binding, max_pages: 2 });
    Ok(CacheBindings { k: side(&w.k), v: side(&w.v), block_table })
}

fn format() -> CacheFormat {
    CacheFormat { paged: true, ..CacheFormat::new(1, D) }
}

struct DecodeCall {
    shape: DecodeShape,
    bindings: DecodeBindings<'static>,
}

fn decode(w: &'static World) -> phasor::Result<DecodeCall> {
    Ok(DecodeCall {
        shape: DecodeShape { batch: B, seq_q: 2 },
        bindings: DecodeBindings {
            q: Tensor::new(&w.q, DType::F32, Layout::bhsd([B, 2, 2, D])?),
            cache: cache(w)?,
            kv_lens: w.lens.as_entire_buffer_binding(),
            out: Tensor::new(&w.out, DType::F32, Layout::bhsd([B, 4, 2, D])?),
            lse: Some(w.lse.as_entire_buffer_binding()),
            rotation: Some(Rotation::new(w.table(), Positions::AmongKeys)),
            bias: None,
            workspace: Some(w.workspace.as_entire_buffer_binding()),
        },
    })
}

/// Twists of a cache that every kernel refuses.
macro_rules! cache_table {
    ($call:ty) => {
        [
            wrong(
                "a cache in f16",
                |_, c: &mut $call| c.bindings.cache.k.stored = CacheType::F16,
                error!(CacheType { tensor: "k_cache", needed: CacheType::F32, .. }),
            ),
            wrong(
                "no block table",
                |_, c: &mut $call| c.bindings.cache.block_table = None,
                error!(Binding { tensor: "block_table", .. }),
            ),
            wrong(
                "a block table of one sequence",
                |w, c: &mut $call| {
                    let binding = range(&w.pages, 0, 8);
                    c.bindings.cache.block_table = Some(BlockTable { binding, max_pages: 2 });
                },
                error!(BindingTooSmall { tensor: "block_table", needed: 16, available: 8 }),
            ),
            wrong(
                "a block table past 32 bits",
                |w, c: &mut $call| {
                    let binding = w.pages.as_entire_buffer_binding();
                    let max_pages = u32::MAX;
                    c.bindings.cache.block_table = Some(BlockTable { binding, max_pages });
                },
                error!(IndexOverflow { tensor: "block_table", .. }),
            ),
            wrong(
                "pages of 12 rows",
                |_, c: &mut $call| c.bindings.cache.k.layout.shape[2] = 12,
                error!(Invalid { what: "page_size", .. }),
            ),
            wrong(
                "values on fewer pages than keys",
                |_, c: &mut $call| c.bindings.cache.v.layout.shape[0] = 4,
                error!(Shape { tensor: "v_cache", needed: [5, 1, 8, 16], got: [4, 1, 8, 16] }),
            ),
            wrong(
                "a cache that is too small",
                |w, c: &mut $call| c.bindings.cache.v.binding = range(&w.v, 0, 2048),
                error!(BindingTooSmall { tensor: "v_cache", needed: 2560, available: 2048 }),
            ),
            wrong(
                "no table",
                |_, c: &mut $call| c.bindings.rotation = None,
                error!(Binding { tensor: "rotation", .. }),
            ),
            wrong(
                "a slot past the table",
                |w, c: &mut $call| {
                    let mut table = w.table();
                    table.shape.positions = 15;
                    c.bindings.rotation = Some(Rotation::new(table, Positions::AmongKeys));
                },
                error!(TableTooShort { needed: 15, available: 15 }),
            ),
        ]
    };
}

#[test]
fn decode_over_pages() {
    let table = [
        wrong(
            "a sequence too many",
            |_, c: &mut DecodeCall| c.shape.batch = 3,
            error!(Invalid { what: "batch", .. }),
        ),
        wrong("a row too many", |_, c| c.shape.seq_q = 3, error!(Invalid { what: "seq_q", .. })),
        wrong(
            "f16 queries",
            |_, c| c.bindings.q.dtype = DType::F16,
            error!(DType { tensor: "q", needed: DType::F32, got: DType::F16 }),
        ),
        wrong(
            "a row of q for two",
            |_, c| c.bindings.q.layout.shape[2] = 1,
            error!(Shape { tensor: "q", .. }),
        ),
        wrong(
            "one length for two",
            |w, c| c.bindings.kv_lens = w.wrong.tiny.as_entire_buffer_binding(),
            error!(BindingTooSmall { tensor: "kv_lens", needed: 8, available: 4 }),
        ),
        wrong("no lse", |_, c| c.bindings.lse = None, error!(Binding { tensor: "lse", .. })),
        wrong(
            "a bias that was not planned",
            |w, c| {
                let layout = Layout::bhsd([B, 4, 2, 16]).expect("a layout");
                c.bindings.bias = Some((layout, w.workspace.as_entire_buffer_binding()));
            },
            error!(Binding { tensor: "bias", .. }),
        ),
        wrong(
            "no workspace",
            |_, c| c.bindings.workspace = None,
            error!(Binding { tensor: "workspace", .. }),
        ),
        wrong(
            "a small workspace",
            |w, c| c.bindings.workspace = Some(range(&w.workspace, 0, 256)),
            error!(BindingTooSmall { tensor: "workspace", available: 256, .. }),
        ),
        wrong(
            "a workspace in out",
            |w, c| {
                c.bindings.out.binding = w.wrong.large.as_entire_buffer_binding();
                c.bindings.workspace = Some(w.wrong.large.as_entire_buffer_binding());
            },
            error!(Overlap { a: "out", b: "workspace" }),
        ),
        wrong(
            "out in the cache",
            |w, c| c.bindings.out.binding = w.k.as_entire_buffer_binding(),
            error!(Overlap { a: "k_cache", b: "out" }),
        ),
        wrong(
            "one row of out for two",
            |_, c| c.bindings.out.layout.strides[2] = 0,
            error!(SelfOverlap { tensor: "out", .. }),
        ),
    ];
    let problem = DecodeProblem {
        max_seq_q: 2,
        rotate_q: true,
        lse: true,
        ..DecodeProblem::new(HeadMap::ropepp(2).unwrap(), format(), B, 16)
    };
    let tile = Tile::new(16, 1, 4);
    let plan = DecodePlan::with_parts(&problem, &lab().gpu.capabilities(), tile, 2).unwrap();
    let kernel = lab().decode(&plan).unwrap();
    let bind =
        |kernel: &Decode, c: &DecodeCall| kernel.bind(&lab().gpu.device, &c.shape, &c.bindings);
    let table: Vec<_> = table.into_iter().chain(cache_table!(DecodeCall)).collect();
    refuse(World::new().unwrap(), &kernel, decode, bind, &table);
}

struct AppendCall {
    shape: KvAppendShape,
    bindings: KvAppendBindings<'static>,
}

fn append(w: &'static World) -> phasor::Result<AppendCall> {
    let new = Tensor::new(&w.new, DType::F32, Layout::bhsd([B, 1, 1, D])?);
    Ok(AppendCall {
        shape: KvAppendShape::new(B, 1),
        bindings: KvAppendBindings {
            k: new.clone(),
            v: new,
            cache: cache(w)?,
            lens: w.lens.as_entire_buffer_binding(),
            rotation: Some(Rotation::new(w.table(), Positions::AmongKeys)),
        },
    })
}

#[test]
fn appends_to_pages() {
    let table = [
        wrong(
            "more rows than a sequence can have",
            |_, c: &mut AppendCall| {
                c.shape.seq = 17;
                for new in [&mut c.bindings.k, &mut c.bindings.v] {
                    new.layout = Layout { shape: [B, 1, 17, D], strides: [0; 3], offset: 0 };
                }
            },
            error!(CacheFull { sequence: 0, needed: 17, capacity: 16 }),
        ),
        wrong(
            "two sequences with rows for one",
            |_, c| c.bindings.k.layout.shape[0] = 1,
            error!(Shape { tensor: "k", .. }),
        ),
        wrong(
            "one length for two",
            |w, c| c.bindings.lens = w.wrong.tiny.as_entire_buffer_binding(),
            error!(BindingTooSmall { tensor: "lens", needed: 8, available: 4 }),
        ),
        wrong(
            "ragged rows without their starts",
            |_, c| {
                c.shape.ragged = Some(2);
                for new in [&mut c.bindings.k, &mut c.bindings.v] {
                    new.layout.shape = [1, 1, 2, D];
                }
            },
            error!(BindingTooSmall { tensor: "lens", needed: 20, available: 16 }),
        ),
        wrong(
            "new rows within the cache",
            |w, c| c.bindings.k.binding = w.k.as_entire_buffer_binding(),
            error!(Overlap { a: "k", b: "k_cache" }),
        ),
        wrong(
            "values over the keys",
            |w, c| c.bindings.cache.v.binding = w.k.as_entire_buffer_binding(),
            error!(Overlap { a: "k_cache", b: "v_cache" }),
        ),
        wrong(
            "all pages over one",
            |_, c| c.bindings.cache.k.layout.strides[0] = 0,
            error!(SelfOverlap { tensor: "k_cache", .. }),
        ),
        wrong(
            "f16 rows",
            |_, c| c.bindings.v.dtype = DType::F16,
            error!(DType { tensor: "v", .. }),
        ),
    ];
    let plan = KvAppendProblem::new(format()).plan(&lab().gpu.capabilities()).unwrap();
    let kernel = KvAppend::new(&lab().gpu.device, &plan).unwrap();
    let bind =
        |kernel: &KvAppend, c: &AppendCall| kernel.bind(&lab().gpu.device, &c.shape, &c.bindings);
    let table: Vec<_> = table.into_iter().chain(cache_table!(AppendCall)).collect();
    refuse(World::new().unwrap(), &kernel, append, bind, &table);
}
