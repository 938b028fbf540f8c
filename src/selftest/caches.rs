//! The probes of what reads and writes a cache.

use super::attention::attended;
use super::inputs::{Turn, numbers, wide};
use super::memory::{Contents, Memory, Slot};
use super::probes::{Expected, Ready};
use crate::attention::{Attention, AttentionBindings};
use crate::decode::{Decode, DecodeBindings};
use crate::gpu::{CacheBindings, CacheTensor, Positions, Rotation};
use crate::kv_append::{KvAppend, KvAppendBindings};
use crate::kv_move::{KvMove, KvMoveBindings};
use crate::oracle;
use crate::plan::attention::{AttentionProblem, AttentionShape};
use crate::plan::cache::{CacheFormat, CacheType};
use crate::plan::decode::{DecodeProblem, DecodeShape};
use crate::plan::kv_append::{KvAppendProblem, KvAppendShape};
use crate::plan::kv_move::{KvMoveProblem, KvMoveShape, Move};
use crate::{Capabilities, DType, HeadMap, Layout, Result};

/// A cache of one sequence and head, and what reads come to.
struct Cached {
    format: CacheFormat,
    keys: u32,
    bytes: [Vec<u8>; 2],
    read: [Vec<f32>; 2],
}

impl Cached {
    fn new(keys: u32, [k, v]: [CacheType; 2]) -> Result<Self> {
        let side = |seed, stored| {
            let bytes = oracle::encode_rows(&numbers(keys * 64, seed), 64, stored)?;
            let read = oracle::decode_rows(&bytes, 64, stored)?;
            Result::Ok((bytes, read))
        };
        let ((k_bytes, k_read), (v_bytes, v_read)) = (side(2, k)?, side(3, v)?);
        let format = CacheFormat { k, v, ..CacheFormat::new(1, 64) };
        Ok(Self { format, keys, bytes: [k_bytes, v_bytes], read: [k_read, v_read] })
    }

    fn write(&self, contents: &mut Contents) -> [Slot; 2] {
        self.bytes.each_ref().map(|bytes| contents.bytes(bytes))
    }

    fn bind<'a>(&self, memory: &'a Memory, [k, v]: [Slot; 2]) -> Result<CacheBindings<'a>> {
        let side = |slot, stored: CacheType| {
            let layout = Layout::bhsd([1, 1, self.keys, stored.row(64)])?;
            Result::Ok(CacheTensor { binding: memory.at(slot), stored, layout })
        };
        let (k, v) = (side(k, self.format.k)?, side(v, self.format.v)?);
        Ok(CacheBindings { k, v, block_table: None })
    }
}

/// A chunk of a prompt, past the end of a tile, over a cache whose last row is its own.
pub(super) fn chunk(
    device: &wgpu::Device,
    caps: &Capabilities,
    stored: [CacheType; 2],
) -> Result<Ready> {
    const ROWS: u32 = 35;
    let (heads, cache) = (HeadMap::ropepp(1)?, Cached::new(100, stored)?);
    let q = numbers(ROWS * 64, 1);
    let sizes = [ROWS, cache.keys];
    let [out_is, lse_is] = attended([&q, &cache.read[0], &cache.read[1]], sizes, 64, &heads, None)?;
    let problem = AttentionProblem { lse: true, ..AttentionProblem::over(heads, cache.format) };
    let kernel = Attention::new(device, &problem.plan(caps)?)?;
    let mut contents = Contents::new(caps);
    let q = contents.numbers(&q, DType::F32);
    let slots = cache.write(&mut contents);
    let kv_lens = contents.bytes(bytemuck::bytes_of(&cache.keys));
    let out = contents.output(out_is.truth.len(), DType::F32);
    let lse = contents.output(lse_is.truth.len(), DType::F32);
    let memory = contents.upload(device);
    let bindings = AttentionBindings {
        lse: Some(memory.at(lse)),
        ..AttentionBindings::over(
            memory.tensor(q, DType::F32, Layout::bhsd([1, 1, ROWS, 64])?),
            cache.bind(&memory, slots)?,
            memory.at(kv_lens),
            memory.tensor(out, DType::F32, Layout::bhsd([1, 2, ROWS, 64])?),
        )
    };
    let dispatch = kernel.bind(device, &AttentionShape::new(1, ROWS, cache.keys), &bindings)?;
    Ok(Ready { dispatch, memory, outputs: vec![(out, out_is), (lse, lse_is)] })
}

pub(super) fn decode(
    device: &wgpu::Device,
    caps: &Capabilities,
    stored: [CacheType; 2],
) -> Result<Ready> {
    let (heads, cache) = (HeadMap::ropepp(1)?, Cached::new(100, stored)?);
    let q = numbers(64, 1);
    let sizes = [1, cache.keys];
    let [out_is, lse_is] = attended([&q, &cache.read[0], &cache.read[1]], sizes, 64, &heads, None)?;
    // Room for many keys, so that they are split over workgroups.
    let problem = DecodeProblem { lse: true, ..DecodeProblem::new(heads, cache.format, 1, 4096) };
    let kernel = Decode::new(device, &problem.plan(caps)?)?;
    let bytes = kernel.plan().workspace_bytes(&kernel.plan().problem().largest());
    let mut contents = Contents::new(caps);
    let q = contents.numbers(&q, DType::F32);
    let slots = cache.write(&mut contents);
    let kv_lens = contents.bytes(bytemuck::bytes_of(&cache.keys));
    let out = contents.output(out_is.truth.len(), DType::F32);
    let lse = contents.output(lse_is.truth.len(), DType::F32);
    let workspace = contents.scratch(bytes);
    let memory = contents.upload(device);
    let bindings = DecodeBindings {
        lse: Some(memory.at(lse)),
        workspace: (bytes > 0).then(|| memory.at(workspace)),
        ..DecodeBindings::new(
            memory.tensor(q, DType::F32, Layout::bhsd([1, 1, 1, 64])?),
            cache.bind(&memory, slots)?,
            memory.at(kv_lens),
            memory.tensor(out, DType::F32, Layout::bhsd([1, 2, 1, 64])?),
        )
    };
    let dispatch = kernel.bind(device, &DecodeShape { batch: 1, seq_q: 1 }, &bindings)?;
    Ok(Ready { dispatch, memory, outputs: vec![(out, out_is), (lse, lse_is)] })
}

/// Five rows behind three, in a cache for ten.
pub(super) fn append(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
    let (new, cached) = ([1, 1, 5, 64], [1, 1, 10, 64]);
    let [k, v] = [2, 3].map(|seed| numbers(5 * 64, seed));
    let before = numbers(10 * 64, 4);
    let turn = Turn::new()?;
    let merged = |rows: Vec<f64>| {
        let mut all = wide::<f64>(&before);
        all[3 * 64..8 * 64].copy_from_slice(&rows);
        all
    };
    let mut naive = before.clone();
    naive[3 * 64..8 * 64].copy_from_slice(&turn.apply(&k, new, 3)?);
    let k_truth = merged(turn.apply(&wide::<f64>(&k), new, 3)?);
    let k_is = Expected::new("k", DType::F32, k_truth, &naive);
    naive[3 * 64..8 * 64].copy_from_slice(&v);
    let v_is = Expected::new("v", DType::F32, merged(wide(&v)), &naive);

    let kernel = KvAppend::new(device, &KvAppendProblem::new(CacheFormat::new(1, 64)).plan(caps)?)?;
    let mut contents = Contents::new(caps);
    let [k, v] = [k, v].map(|x| contents.numbers(&x, DType::F32));
    let [k_cache, v_cache] = [(); 2].map(|()| contents.numbers(&before, DType::F32));
    let (table, lens) = (turn.write(&mut contents), contents.bytes(bytemuck::bytes_of(&3_u32)));
    let memory = contents.upload(device);
    let layout = Layout::bhsd(cached)?;
    let cache = |slot| CacheTensor { binding: memory.at(slot), stored: CacheType::F32, layout };
    let bindings = KvAppendBindings {
        k: memory.tensor(k, DType::F32, Layout::bhsd(new)?),
        v: memory.tensor(v, DType::F32, Layout::bhsd(new)?),
        cache: CacheBindings { k: cache(k_cache), v: cache(v_cache), block_table: None },
        lens: memory.at(lens),
        rotation: Some(Rotation::new(turn.bind(&memory, table)?, Positions::AmongKeys)),
    };
    let dispatch = kernel.bind(device, &KvAppendShape::new(1, 5), &bindings)?;
    Ok(Ready { dispatch, memory, outputs: vec![(k_cache, k_is), (v_cache, v_is)] })
}

/// A context shift: of nine rows, three behind the first two are lost.
pub(super) fn shift(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
    let rows = 2 * 64..6 * 64;
    let from = 5 * 64..9 * 64;
    let [k, v] = [2, 3].map(|seed| numbers(10 * 64, seed));
    let turn = Turn::new()?;
    let mut k_truth = wide::<f64>(&k);
    k_truth[rows.clone()].copy_from_slice(&turn.back(&wide(&k[from.clone()]), [1, 1, 4, 64], 3)?);
    let mut k_naive = k.clone();
    k_naive[rows.clone()].copy_from_slice(&turn.back(&k[from.clone()], [1, 1, 4, 64], 3)?);
    let mut moved = v.clone();
    moved.copy_within(from, rows.start);
    let k_is = Expected::new("k", DType::F32, k_truth, &k_naive);
    let v_is = Expected::new("v", DType::F32, wide(&moved), &moved);

    let kernel = KvMove::new(device, &KvMoveProblem::new(CacheFormat::new(1, 64)).plan(caps)?)?;
    let mut contents = Contents::new(caps);
    let [k, v] = [k, v].map(|x| contents.numbers(&x, DType::F32));
    let table = turn.write(&mut contents);
    let memory = contents.upload(device);
    let layout = Layout::bhsd([1, 1, 10, 64])?;
    let cache = |slot| CacheTensor { binding: memory.at(slot), stored: CacheType::F32, layout };
    let bindings = KvMoveBindings {
        cache: CacheBindings { k: cache(k), v: cache(v), block_table: None },
        table: Some(turn.bind(&memory, table)?),
    };
    let moves = [Move::shift(0, 2, 3, 9)];
    let dispatch = kernel.bind(device, &KvMoveShape::new(1, &moves), &bindings)?;
    Ok(Ready { dispatch, memory, outputs: vec![(k, k_is), (v, v_is)] })
}
