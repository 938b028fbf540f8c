//! The probes: small calls of every kernel, and what the oracle says of them.

use super::backward::backward;
use super::inputs::{Turn, numbers, stored, wide};
use super::linear_backward::linear_backward;
use super::memory::{Contents, Memory, Slot};
use crate::attention::{Attention, AttentionBindings};
use crate::decode::{Decode, DecodeBindings};
use crate::gpu::{CacheBindings, CacheTensor, Positions, Rotation};
use crate::kv_append::{KvAppend, KvAppendBindings};
use crate::kv_move::{KvMove, KvMoveBindings};
use crate::linear_attention::{LinearAttention, LinearAttentionBindings};
use crate::oracle::{self, AttentionInputs, LinearInputs, Real};
use crate::plan::attention::{AttentionPlan, AttentionProblem, AttentionShape};
use crate::plan::cache::{CacheFormat, CacheType};
use crate::plan::decode::{DecodeProblem, DecodeShape};
use crate::plan::kv_append::{KvAppendProblem, KvAppendShape};
use crate::plan::kv_move::{KvMoveProblem, KvMoveShape, Move};
use crate::plan::linear_attention::{LinearAttentionProblem, LinearAttentionShape};
use crate::plan::rope::{RopeProblem, RopeShape};
use crate::plan::scores::{ScoresProblem, ScoresShape};
use crate::plan::{KernelKind, Matrices, Precision, Suspect, Trust};
use crate::rope::{Rope, RopeBindings};
use crate::rotary::Pairing;
use crate::scores::{Scores, ScoresBindings};
use crate::{Capabilities, DType, Dispatch, HeadMap, Layout, Result};

/// Compiles and binds a call, on any thread.
type Prepare = Box<dyn FnOnce(&wgpu::Device) -> Result<Ready> + Send>;

/// A call, before it is compiled.
pub(super) struct Probe {
    pub(super) name: String,
    pub(super) suspects: Vec<Suspect>,
    pub(super) ready: Prepare,
}

/// A call that can be recorded, and what each of its outputs should hold.
pub(super) struct Ready {
    pub(super) dispatch: Dispatch,
    pub(super) memory: Memory,
    pub(super) outputs: Vec<(Slot, Expected)>,
}

/// What an output should hold.
pub(super) struct Expected {
    pub(super) what: &'static str,
    pub(super) dtype: DType,
    pub(super) truth: Vec<f64>,
    pub(super) bound: f64,
}

impl Expected {
    /// The rule of the crate's tests: twice the error of the naive run in f32, rounded as it is
    /// stored, and a floor of eight ulp of the largest number.
    pub(super) fn new(what: &'static str, dtype: DType, truth: Vec<f64>, naive: &[f32]) -> Self {
        let ulp = match dtype {
            DType::F32 => f64::from(f32::EPSILON),
            DType::F16 => f64::from(half::f16::EPSILON.to_f32()),
        };
        let stored = stored(naive, dtype);
        let off = truth.iter().zip(&stored).map(|(t, &n)| (t - f64::from(n)).abs());
        let largest = truth.iter().copied().map(f64::abs).fold(0.0, f64::max);
        let bound = 2.0 * off.fold(0.0, f64::max) + 8.0 * ulp * largest;
        Self { what, dtype, truth, bound }
    }
}

/// One probe for each kernel, storage and attention tile that plans for `caps` may use. How many
/// tiles there are depends on the device: a software adapter takes seconds to compile one.
pub(super) fn all(caps: &Capabilities) -> Vec<Probe> {
    let mut probes = vec![
        probe(caps, "rope, f32", vec![Suspect::Kernel(KernelKind::Rope)], |device, caps| {
            rope(device, caps, DType::F32)
        }),
        probe(caps, "rope, f16", vec![Suspect::Storage(CacheType::F16)], |device, caps| {
            rope(device, caps, DType::F16)
        }),
        probe(caps, "kv_append", vec![Suspect::Kernel(KernelKind::KvAppend)], append),
        probe(caps, "kv_move", vec![Suspect::Kernel(KernelKind::KvMove)], shift),
        probe(
            caps,
            "decode, split and merged",
            vec![Suspect::Kernel(KernelKind::Decode), Suspect::Kernel(KernelKind::Merge)],
            |device, caps| decode(device, caps, [CacheType::F32; 2]),
        ),
        probe(
            caps,
            "decode, int8 and q4",
            vec![Suspect::Storage(CacheType::Int8), Suspect::Storage(CacheType::Q4)],
            |device, caps| decode(device, caps, [CacheType::Int8, CacheType::Q4]),
        ),
        probe(
            caps,
            "attention, int8 and q4",
            vec![Suspect::Storage(CacheType::Int8), Suspect::Storage(CacheType::Q4)],
            |device, caps| chunk(device, caps, [CacheType::Int8, CacheType::Q4]),
        ),
        probe(caps, "scores", vec![Suspect::Kernel(KernelKind::Scores)], scores),
        probe(caps, "linear attention", vec![Suspect::Kernel(KernelKind::LinearAttention)], linear),
        probe(
            caps,
            "attention backward",
            vec![Suspect::Kernel(KernelKind::AttentionBackward)],
            backward,
        ),
        probe(
            caps,
            "linear attention backward",
            vec![Suspect::Kernel(KernelKind::LinearAttentionBackward)],
            linear_backward,
        ),
    ];
    probes.extend(tiles(caps, Precision::F32));
    if matches!(caps.matrices, Matrices::Listed { trust: Trust::Known | Trust::Insisted, .. }) {
        // These probes are what plans wait for.
        probes.extend(tiles(&caps.clone().insist_on_matrices(), Precision::F16Products));
    }
    probes.retain(|probe| probe.suspects.iter().any(|&suspect| caps.quarantine(suspect).is_none()));
    probes
}

/// The tiles of attention that plans choose.
fn tiles(caps: &Capabilities, precision: Precision) -> Vec<Probe> {
    let (mut tiles, mut probes) = (Vec::new(), Vec::new());
    let dims: &[u32] = if caps.software { &[64] } else { &[64, 128, 256] };
    for &dim in dims {
        for heads in [HeadMap::ropepp(1), HeadMap::plain(1)] {
            let Ok(heads) = heads else { continue };
            let problem = AttentionProblem::new(heads, 1, dim);
            let problem = AttentionProblem { lse: true, precision, ..problem };
            let Ok(plan) = problem.plan(caps) else { continue };
            let (tile, streams) = (*plan.tile(), plan.streams());
            if tiles.contains(&tile) {
                continue;
            }
            tiles.push(tile);
            let name = match precision {
                Precision::F32 => format!("attention, streams {streams}, D {dim}"),
                _ => format!("attention on matrix units, streams {streams}, D {dim}"),
            };
            let ready = Box::new(move |device: &wgpu::Device| attention(device, &plan));
            probes.push(Probe { name, suspects: vec![Suspect::Tile(tile)], ready });
        }
    }
    probes
}

fn probe(
    caps: &Capabilities,
    name: &str,
    suspects: Vec<Suspect>,
    run: impl FnOnce(&wgpu::Device, &Capabilities) -> Result<Ready> + Send + 'static,
) -> Probe {
    let caps = caps.clone();
    Probe { name: name.to_owned(), suspects, ready: Box::new(move |device| run(device, &caps)) }
}

fn rope(device: &wgpu::Device, caps: &Capabilities, dtype: DType) -> Result<Ready> {
    let shape = [1, 2, 9, 64];
    let x = numbers(2 * 9 * 64, 1);
    let turn = Turn::new()?;
    let kernel =
        Rope::new(device, &RopeProblem { dtype, ..RopeProblem::new(2, 0, 64) }.plan(caps)?)?;
    let mut contents = Contents::new(caps);
    let (q, out) = (contents.numbers(&x, dtype), contents.output(x.len(), dtype));
    let table = turn.write(&mut contents);
    let memory = contents.upload(device);
    let layout = Layout::bhsd(shape)?;
    let bindings = RopeBindings {
        q: memory.tensor(q, dtype, layout),
        k: None,
        q_out: Some(memory.tensor(out, dtype, layout)),
        k_out: None,
        rotation: Rotation::new(turn.bind(&memory, table)?, Positions::From(5)),
    };
    let dispatch = kernel.bind(device, &RopeShape { batch: 1, seq: 9 }, &bindings)?;
    let truth = turn.apply(&wide::<f64>(&x), shape, 5)?;
    let naive = turn.apply(&x, shape, 5)?;
    Ok(Ready { dispatch, memory, outputs: vec![(out, Expected::new("out", dtype, truth, &naive))] })
}

pub(super) fn attention_inputs<'a, R>(
    [q, k, v]: [&'a [R]; 3],
    [rows, keys]: [u32; 2],
    dim: u32,
    heads: &'a HeadMap,
) -> AttentionInputs<'a, R> {
    AttentionInputs {
        q,
        q_shape: [1, heads.q_heads(), rows, dim],
        k,
        k_shape: [1, 1, keys, dim],
        v,
        v_shape: [1, 1, keys, dim],
        rotary_dim: dim,
        pairing: Pairing::Half,
        heads: heads.heads(),
        softmax_scale: f64::from(f64::from(dim).powf(-0.5) as f32),
        causal: true,
        q_offset: None,
        kv_lens: None,
    }
}

/// What `[out, lse]` should be of queries over keys, in so many keys a step where products are f16.
fn attended(
    x: [&[f32]; 3],
    sizes: [u32; 2],
    dim: u32,
    heads: &HeadMap,
    f16_steps: Option<u32>,
) -> Result<[Expected; 2]> {
    let [q, k, v] = x.map(wide::<f64>);
    let truth = oracle::attention(&attention_inputs([&q, &k, &v], sizes, dim, heads))?;
    let inputs = attention_inputs(x, sizes, dim, heads);
    let naive = match f16_steps {
        Some(keys) => oracle::attention_f16(&inputs, &|_, score| Some(score), None, keys)?,
        None => oracle::attention(&inputs)?,
    };
    Ok([
        Expected::new("out", DType::F32, truth.out, &naive.out),
        Expected::new("lse", DType::F32, truth.lse, &naive.lse),
    ])
}

/// Past the end of a tile both ways, and no row without a key.
fn attention(device: &wgpu::Device, plan: &AttentionPlan) -> Result<Ready> {
    let (heads, dim) = (&plan.problem().heads, plan.problem().head_dim);
    let rows = plan.tile().block_q() + 3;
    let keys = rows + plan.tile().block_k();
    let x = [numbers(rows * dim, 1), numbers(keys * dim, 2), numbers(keys * dim, 3)];
    let f16 = plan.problem().precision == Precision::F16Products;
    let steps = f16.then_some(plan.tile().block_k());
    let inputs = x.each_ref().map(Vec::as_slice);
    let [out_is, lse_is] = attended(inputs, [rows, keys], dim, heads, steps)?;
    let mut contents = Contents::new(&plan.capabilities);
    let [q, k, v] = x.map(|x| contents.numbers(&x, DType::F32));
    let out = contents.output(out_is.truth.len(), DType::F32);
    let lse = contents.output(lse_is.truth.len(), DType::F32);
    let memory = contents.upload(device);
    let kv = Layout::bhsd([1, 1, keys, dim])?;
    let out_layout = Layout::bhsd([1, heads.heads().len() as u32, rows, dim])?;
    let bindings = AttentionBindings {
        lse: Some(memory.at(lse)),
        ..AttentionBindings::new(
            memory.tensor(q, DType::F32, Layout::bhsd([1, 1, rows, dim])?),
            memory.tensor(k, DType::F32, kv),
            memory.tensor(v, DType::F32, kv),
            memory.tensor(out, DType::F32, out_layout),
        )
    };
    let kernel = Attention::new(device, plan)?;
    let dispatch = kernel.bind(device, &AttentionShape::new(1, rows, keys), &bindings)?;
    Ok(Ready { dispatch, memory, outputs: vec![(out, out_is), (lse, lse_is)] })
}

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
fn chunk(device: &wgpu::Device, caps: &Capabilities, stored: [CacheType; 2]) -> Result<Ready> {
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

fn decode(device: &wgpu::Device, caps: &Capabilities, stored: [CacheType; 2]) -> Result<Ready> {
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
fn append(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
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
fn shift(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
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

/// A plane of real scores and one of imaginary ones.
fn scores(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
    let (rows, keys) = (20, 70);
    let heads = HeadMap::plain(1)?;
    let (q, k) = (numbers(rows * 64, 1), numbers(keys * 64, 2));
    let problem = ScoresProblem { causal: false, ..ScoresProblem::new(1, 1, 64) };
    let scale = f64::from(problem.softmax_scale);
    let (wide_q, wide_k) = (wide::<f64>(&q), wide::<f64>(&k));
    let exact = [&wide_q[..], &wide_k, &wide_k];
    let (re, im) = oracle::scores(&attention_inputs(exact, [rows, keys], 64, &heads))?;
    let truth = re.into_iter().chain(im).map(|s| s * scale).collect();
    let (re, im) = oracle::scores(&attention_inputs([&q, &k, &k], [rows, keys], 64, &heads))?;
    let naive: Vec<f32> = re.into_iter().chain(im).map(|s| s * problem.softmax_scale).collect();
    let kernel = Scores::new(device, &problem.plan(caps)?)?;
    let mut contents = Contents::new(caps);
    let [q, k] = [q, k].map(|x| contents.numbers(&x, DType::F32));
    let out = contents.output(naive.len(), DType::F32);
    let memory = contents.upload(device);
    let bindings = ScoresBindings {
        q: memory.tensor(q, DType::F32, Layout::bhsd([1, 1, rows, 64])?),
        k: memory.tensor(k, DType::F32, Layout::bhsd([1, 1, keys, 64])?),
        out: memory.at(out),
        lse: None,
    };
    let dispatch = kernel.bind(device, &ScoresShape::new(1, rows, keys), &bindings)?;
    Ok(Ready {
        dispatch,
        memory,
        outputs: vec![(out, Expected::new("out", DType::F32, truth, &naive))],
    })
}

/// Causal, over more than a chunk.
fn linear(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
    const ROWS: u32 = 80;
    let shape = [1, 1, ROWS, 64];
    let heads = HeadMap::plain(1)?;
    let x = [1, 2, 3].map(|seed| numbers(ROWS * 64, seed));
    let turn = Turn::new()?;
    fn attended<R: Real>(turn: &Turn, x: &[Vec<f32>; 3], heads: &HeadMap) -> Result<Vec<R>> {
        let shape = [1, 1, ROWS, 64];
        let [q, k, v] = x.each_ref().map(|x| wide::<R>(x));
        let (q, k) = (oracle::elu_plus_one(&q), oracle::elu_plus_one(&k));
        oracle::linear_attention(&LinearInputs {
            q: &q,
            q_rotated: &turn.apply(&q, shape, 0)?,
            q_shape: shape,
            k: &k,
            k_rotated: &turn.apply(&k, shape, 0)?,
            k_shape: shape,
            v: &v,
            v_shape: shape,
            rotary_dim: 64,
            pairing: Pairing::Half,
            heads: heads.heads(),
            causal: true,
        })
    }
    let (truth, naive) = (attended::<f64>(&turn, &x, &heads)?, attended::<f32>(&turn, &x, &heads)?);
    let plan = LinearAttentionProblem::new(heads, 1, 64).plan(caps)?;
    let kernel = LinearAttention::new(device, &plan)?;
    let call = LinearAttentionShape::new(1, ROWS);
    let mut contents = Contents::new(caps);
    let workspace = contents.scratch(plan.workspace_bytes(&call));
    let [q, k, v] = x.map(|x| contents.numbers(&x, DType::F32));
    let (out, table) = (contents.output(naive.len(), DType::F32), turn.write(&mut contents));
    let memory = contents.upload(device);
    let layout = Layout::bhsd(shape)?;
    let tensor = |slot| memory.tensor(slot, DType::F32, layout);
    let bindings = LinearAttentionBindings {
        q: tensor(q),
        k: tensor(k),
        v: tensor(v),
        out: tensor(out),
        workspace: memory.at(workspace),
        rotation: Some(Rotation::new(turn.bind(&memory, table)?, Positions::From(0))),
        q_positions: None,
        state: None,
        random: None,
    };
    let dispatch = kernel.bind(device, &call, &bindings)?;
    Ok(Ready {
        dispatch,
        memory,
        outputs: vec![(out, Expected::new("out", DType::F32, truth, &naive))],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kernel has a probe, and so has each storage that a quarantine can name.
    #[test]
    fn every_kernel_is_probed() {
        let probes = all(&Capabilities::webgpu_default());
        let probed: Vec<Suspect> = probes.into_iter().flat_map(|probe| probe.suspects).collect();
        for &kernel in KernelKind::ALL {
            let of = |suspect: &Suspect| suspect.kernel() == Some(kernel);
            assert!(probed.iter().any(of), "no probe of {kernel}");
        }
        for stored in [CacheType::F16, CacheType::Int8, CacheType::Q4] {
            assert!(probed.contains(&Suspect::Storage(stored)), "no probe of {stored}");
        }
    }

    /// What is left out is not probed.
    #[test]
    fn a_kernel_in_quarantine_is_not_probed() {
        let caps = Capabilities::webgpu_default();
        for &kernel in KernelKind::ALL {
            let caps = caps.clone().without(Suspect::Kernel(kernel), "zeros");
            for probe in all(&caps) {
                let of = |suspect: &Suspect| suspect.kernel() == Some(kernel);
                assert!(!probe.suspects.iter().all(of), "{} of {kernel}", probe.name);
            }
        }
    }
}
