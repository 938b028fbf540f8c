//! What moves memory more than it computes: rotation, append to a cache, decode over it.

use phasor::cache::{CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{DecodeBindings, DecodeProblem, DecodeShape};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::rope::{RopeBindings, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Frequencies, Pairing, Positions, RopeConfig, Rotation};
use phasor::{DType, HeadMap, Layout, Tensor, oracle, wgpu};
use wasm_bindgen::prelude::*;

use super::judge::{Judge, attended};
use super::prefill::{DIM, HEADS, KV_HEADS};
use super::{Trial, numbers, whole};
use crate::gpu::{Gpu, Shared};
use crate::{Result, thrown};

/// Base of the rotation.
const THETA: f64 = 1e4;

#[wasm_bindgen]
impl Trial {
    /// Rotates `seq` rows of queries and keys.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn rope(gpu: &Gpu, seq: u32) -> std::result::Result<Trial, JsError> {
        rope(gpu, seq).map_err(thrown)
    }

    /// Appends `seq` rows of keys, which rotate on their way, and values to an empty cache.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn append(gpu: &Gpu, seq: u32) -> std::result::Result<Trial, JsError> {
        append(gpu, seq).map_err(thrown)
    }

    /// One token's attention over a cache of `kv` rows; `way` is `plain` or `fused`.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn decode(gpu: &Gpu, way: &str, kv: u32) -> std::result::Result<Trial, JsError> {
        decode(gpu, way, kv).map_err(thrown)
    }
}

/// A table on the device, and what the formula reads in its place.
struct Turns {
    table: wgpu::Buffer,
    shape: phasor::rotary::TableShape,
    frequencies: Frequencies,
}

impl Turns {
    fn new(gpu: &Shared, positions: u32) -> Result<Self> {
        let config = RopeConfig::new(DIM, THETA);
        let table = config.table(positions, positions.into())?;
        let buffer = gpu.storage(table.as_bytes().len() as u64);
        gpu.queue.write_buffer(&buffer, 0, table.as_bytes());
        let frequencies = config.frequencies(positions.into())?;
        Ok(Self { table: buffer, shape: table.shape()?, frequencies })
    }

    fn bind<'a>(&'a self, positions: Positions<'a>) -> Rotation<'a> {
        Rotation::new(CosSin { binding: whole(&self.table), shape: self.shape }, positions)
    }

    /// A row of keys or queries, turned to its position: in f64, and naively in f32.
    fn turned(&self, row: &[f32], position: u32) -> Result<(Vec<f64>, Vec<f32>)> {
        let shape = [1, 1, 1, DIM];
        let turn = |pair: u32| self.frequencies.cos_sin(position, pair as usize);
        let wide: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let truth = oracle::rope(&wide, shape, DIM, Pairing::Half, |_, _, pair| turn(pair))?;
        let naive = oracle::rope(row, shape, DIM, Pairing::Half, |_, _, pair| {
            let (cos, sin) = turn(pair);
            (cos as f32, sin as f32)
        })?;
        Ok((truth, naive))
    }
}

/// Rows that are compared: head and place.
fn samples(heads: u32, seq: u32) -> [(u32, u32); 3] {
    [(0, 0), (heads / 2, seq / 3), (heads - 1, seq - 1)]
}

fn row(x: &[f32], row: u32) -> &[f32] {
    &x[(row * DIM) as usize..][..DIM as usize]
}

fn rope(gpu: &Gpu, seq: u32) -> Result<Trial> {
    let shared = gpu.shared();
    let turns = Turns::new(&shared, seq)?;
    let data = [(HEADS, 1), (KV_HEADS, 2)].map(|(heads, seed)| numbers(heads * seq * DIM, seed));
    let [q, k] = data.each_ref().map(|x| shared.upload(x));
    let [q_out, k_out] = data.each_ref().map(|x| shared.storage(4 * x.len() as u64));
    let layout = |heads| Layout::bhsd([1, heads, seq, DIM]);
    let (q_layout, k_layout) = (layout(HEADS)?, layout(KV_HEADS)?);
    let kernel = shared.kernels.rope.get(&RopeProblem::new(HEADS, KV_HEADS, DIM))?;
    let bindings = RopeBindings {
        q: Tensor::new(&q, DType::F32, q_layout),
        k: Some(Tensor::new(&k, DType::F32, k_layout)),
        q_out: Some(Tensor::new(&q_out, DType::F32, q_layout)),
        k_out: Some(Tensor::new(&k_out, DType::F32, k_layout)),
        rotation: turns.bind(Positions::From(0)),
    };
    let shape = RopeShape::new(1, seq);
    let call = kernel.bind(&shared.device, &shape, &bindings)?;
    let mut judge = Judge::default();
    for (x, out, heads) in [(&data[0], &q_out, HEADS), (&data[1], &k_out, KV_HEADS)] {
        for (head, place) in samples(heads, seq) {
            let at = head * seq + place;
            let (truth, naive) = turns.turned(row(x, at), place)?;
            judge.row(out, (at * DIM) as usize, truth, naive);
        }
    }
    let cost = kernel.plan().cost(&shape);
    Ok(Trial::new(gpu, vec![call], [cost.flops, cost.bytes], judge, 0.0))
}

fn append(gpu: &Gpu, seq: u32) -> Result<Trial> {
    let shared = gpu.shared();
    let turns = Turns::new(&shared, seq)?;
    let data = [1, 2].map(|seed| numbers(KV_HEADS * seq * DIM, seed));
    let [k, v] = data.each_ref().map(|x| shared.upload(x));
    let [k_cache, v_cache] = data.each_ref().map(|x| shared.storage(4 * x.len() as u64));
    let lens = shared.storage(4);
    shared.queue.write_buffer(&lens, 0, &0_u32.to_le_bytes());
    let layout = Layout::bhsd([1, KV_HEADS, seq, DIM])?;
    let cache = |buffer| CacheTensor::from(Tensor::new(buffer, DType::F32, layout));
    let plan = KvAppendProblem::new(CacheFormat::new(KV_HEADS, DIM)).plan(&shared.caps)?;
    let bindings = KvAppendBindings {
        rotation: Some(turns.bind(Positions::AmongKeys)),
        ..KvAppendBindings::new(
            Tensor::new(&k, DType::F32, layout),
            Tensor::new(&v, DType::F32, layout),
            CacheBindings::new(cache(&k_cache), cache(&v_cache)),
            whole(&lens),
        )
    };
    let shape = KvAppendShape::new(1, seq);
    let call = KvAppend::new(&shared.device, &plan)?.bind(&shared.device, &shape, &bindings)?;
    let mut judge = Judge::default();
    for (head, place) in samples(KV_HEADS, seq) {
        let at = head * seq + place;
        let (truth, naive) = turns.turned(row(&data[0], at), place)?;
        judge.row(&k_cache, (at * DIM) as usize, truth, naive);
        let value = row(&data[1], at);
        let exact = value.iter().map(|&x| f64::from(x)).collect();
        judge.row(&v_cache, (at * DIM) as usize, exact, value.to_vec());
    }
    let cost = plan.cost(&shape);
    Ok(Trial::new(gpu, vec![call], [cost.flops, cost.bytes], judge, 0.0))
}

fn decode(gpu: &Gpu, way: &str, kv: u32) -> Result<Trial> {
    let shared = gpu.shared();
    let map = match way {
        "plain" => HeadMap::plain(HEADS)?,
        "fused" => HeadMap::ropepp(HEADS)?,
        other => return Err(format!("no way of decode is called {other}").into()),
    };
    let heads = map.heads().to_vec();
    let out_heads = heads.len() as u32;
    // The same problem whatever the length, so that one kernel serves all.
    let problem = DecodeProblem::new(map, CacheFormat::new(KV_HEADS, DIM), 1, 32768);
    let kernel = shared.kernels.decode.get(&problem)?;
    let data = [(HEADS, 1), (KV_HEADS * kv, 2), (KV_HEADS * kv, 3)];
    let data = data.map(|(rows, seed)| numbers(rows * DIM, seed));
    let [q, k, v] = data.each_ref().map(|x| shared.upload(x));
    let lens = shared.storage(4);
    shared.queue.write_buffer(&lens, 0, &kv.to_le_bytes());
    let out = shared.storage(4 * u64::from(out_heads * DIM));
    let shape = DecodeShape::new(1, 1);
    let plan = kernel.plan();
    let workspace = shared.storage(plan.workspace_bytes(&shape).max(16));
    let layout = Layout::bhsd([1, KV_HEADS, kv, DIM])?;
    let cache = |buffer| CacheTensor { binding: whole(buffer), stored: CacheType::F32, layout };
    let bindings = DecodeBindings {
        workspace: (plan.workspace_bytes(&shape) > 0).then(|| whole(&workspace)),
        ..DecodeBindings::new(
            Tensor::new(&q, DType::F32, Layout::bhsd([1, HEADS, 1, DIM])?),
            CacheBindings::new(cache(&k), cache(&v)),
            whole(&lens),
            Tensor::new(&out, DType::F32, Layout::bhsd([1, out_heads, 1, DIM])?),
        )
    };
    let call = kernel.bind(&shared.device, &shape, &bindings)?;
    let mut judge = Judge::default();
    for head in [0, heads.len() - 1] {
        let of = heads[head];
        let plane = (of.source / (HEADS / KV_HEADS) * kv * DIM) as usize;
        let [keys, values] = [&data[1], &data[2]].map(|x| &x[plane..][..(kv * DIM) as usize]);
        let query = row(&data[0], of.source);
        let truth = attended::<f64>(query, [keys, values], of)?;
        let naive = attended::<f32>(query, [keys, values], of)?;
        judge.row(&out, head * DIM as usize, truth, naive);
    }
    let cost = plan.cost_over(&shape, kv);
    Ok(Trial::new(gpu, vec![call], [cost.flops, cost.bytes], judge, 0.0))
}
