//! The calls that are measured: small, ragged, and of the kind that models make.

use phasor::{
    DType, HeadMap, Layout, Tensor,
    gpu::{CacheBindings, CacheTensor, CosSin, Positions},
    kernels::{
        attention::{Attention, AttentionBindings},
        decode::{Decode, DecodeBindings},
        kv_append::{KvAppend, KvAppendBindings},
        linear_attention::{LinearAttention, LinearAttentionBindings, LinearRotation},
        merge::{Merge, MergeBindings},
        rope::{Rope, RopeBindings},
        scores::{Scores, ScoresBindings},
    },
    oracle::{self, AttentionInputs, LinearInputs},
    plan::{
        attention::{AttentionProblem, AttentionShape},
        cache::{CacheFormat, CacheType},
        decode::{DecodePlan, DecodeProblem, DecodeShape},
        kv_append::{KvAppendProblem, KvAppendShape},
        linear_attention::{LinearAttentionProblem, LinearAttentionShape},
        merge::{MergeProblem, MergeShape},
        rope::{RopeProblem, RopeShape},
        scores::{Components, ScoreOutput, ScoresProblem, ScoresShape},
    },
    rotary::{Frequencies, Pairing, RopeConfig},
};
use phasor_kit::{gpu::Gpu, tolerance};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    Measured, Result,
    bounds::{self, Row, U, gamma},
};

/// Measures one kernel with every storage that it takes.
pub type Measure = fn(&Gpu) -> Result<Vec<Measured>>;

/// Every kernel, in the order of the table.
pub const ALL: [Measure; 7] = [rope, attention, scores, append, decode, merge, linear];

const TYPES: [DType; 2] = [DType::F32, DType::F16];
/// Channels of a head.
const D: u32 = 64;
/// Position of the first row: tables are exact far out as well.
const FIRST: u32 = 30_000;

fn random(shape: [u32; 4], dtype: DType, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let elements: usize = shape.iter().map(|&n| n as usize).product();
    let data: Vec<f32> = (0..elements).map(|_| rng.random_range(-2.0..=2.0)).collect();
    tolerance::stored(&data, dtype)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn elements(shape: [u32; 4]) -> usize {
    shape.iter().map(|&n| n as usize).product()
}

fn tensor<'a>(
    buffer: &'a phasor::wgpu::Buffer,
    dtype: DType,
    shape: [u32; 4],
) -> Result<Tensor<'a>> {
    Ok(Tensor::new(buffer, dtype, Layout::bhsd(shape)?))
}

fn frequencies() -> Result<Frequencies> {
    Ok(RopeConfig::new(D, 10_000.0).frequencies(1 << 17)?)
}

/// Rotated rows `[B, H, S, D]` from a first position on, and how far off a kernel may be.
fn rotated(x: &[f32], shape: [u32; 4], first: u32) -> Result<(Vec<f64>, Vec<f64>)> {
    let frequencies = frequencies()?;
    let turn = |_, s, pair| frequencies.cos_sin(first + s, pair as usize);
    let truth = oracle::rope(&wide(x), shape, D, Pairing::Half, turn)?;
    let (row, half) = (D as usize, D as usize / 2);
    let bound = (0..truth.len()).map(|n| {
        let (start, pair) = (n / row * row, n % half);
        let (cos, sin) = frequencies.cos_sin(first + (n / row) as u32 % shape[2], pair);
        bounds::rotation(x[start + pair].into(), x[start + pair + half].into(), cos, sin)
    });
    Ok((truth, bound.collect()))
}

fn rope(gpu: &Gpu) -> Result<Vec<Measured>> {
    let shape = [2, 2, 100, D];
    let table = frequencies()?.table(FIRST + 200)?;
    let (buffer, table) = (gpu.upload_bytes(table.as_bytes()), table.shape()?);
    let mut all = Vec::new();
    for dtype in TYPES {
        let problem = RopeProblem { dtype, ..RopeProblem::new(2, 0, D) };
        let kernel = Rope::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
        let x = random(shape, dtype, 1);
        let (q, out) = (gpu.upload(&x, dtype), gpu.output(x.len(), dtype));
        let bindings = RopeBindings {
            q: tensor(&q, dtype, shape)?,
            k: None,
            q_out: Some(tensor(&out, dtype, shape)?),
            k_out: None,
            table: CosSin { binding: buffer.as_entire_buffer_binding(), shape: table },
            positions: Positions::From(FIRST),
        };
        let call = kernel.bind(&gpu.device, &RopeShape { batch: 2, seq: 100 }, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let (truth, bound) = rotated(&x, shape, FIRST)?;
        let bound: Vec<f64> =
            truth.iter().zip(bound).map(|(&t, b)| bounds::stored(dtype, t, b)).collect();
        let got = gpu.download(&out, dtype);
        all.push(Measured::new("rope", dtype, Some(dtype), &got, &truth, &bound)?);
    }
    Ok(all)
}

/// One softmax problem: q `[1, H_q, S_q, D]`, one kv head of S_k keys, both components, causal from
/// the last key on.
struct Softmax<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    q_heads: u32,
    seq_q: u32,
    seq_k: u32,
    steps: usize,
    parts: usize,
    /// Relative error of a key or value as the kernel reads it.
    read_error: f64,
    out: DType,
}

struct Reference {
    truth: oracle::Attention<f64>,
    out: Vec<f64>,
    lse: Vec<f64>,
}

impl Softmax<'_> {
    fn inputs<'a>(
        &self,
        q: &'a [f64],
        k: &'a [f64],
        v: &'a [f64],
        heads: &'a HeadMap,
    ) -> AttentionInputs<'a, f64> {
        AttentionInputs {
            q,
            q_shape: [1, self.q_heads, self.seq_q, D],
            k,
            k_shape: [1, 1, self.seq_k, D],
            v,
            v_shape: [1, 1, self.seq_k, D],
            rotary_dim: D,
            pairing: Pairing::Half,
            heads: heads.heads(),
            softmax_scale: f64::from(D).powf(-0.5),
            causal: true,
            q_offset: None,
            kv_lens: None,
        }
    }

    fn reference(&self) -> Result<Reference> {
        let heads = HeadMap::ropepp(self.q_heads)?;
        let [q, k, v] = [self.q, self.k, self.v].map(wide);
        let inputs = self.inputs(&q, &k, &v, &heads);
        let truth = oracle::attention(&inputs)?;
        let scores = oracle::scores(&inputs)?;
        let sums = self.sums(&q, &k, &v, &heads)?;
        let base2 = f64::from(D).powf(-0.5) * std::f64::consts::LOG2_E;
        let (seq_q, seq_k, d) = (self.seq_q as usize, self.seq_k as usize, D as usize);
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for head in 0..2 * self.q_heads as usize {
            let (scores, sums) = match head % 2 {
                0 => (&scores.0, &sums.0),
                _ => (&scores.1, &sums.1),
            };
            for i in 0..seq_q {
                let keys = seq_k - seq_q + i + 1;
                let first = (head / 2 * seq_q + i) * seq_k;
                let row: Vec<f64> = scores[first..first + keys].iter().map(|s| s * base2).collect();
                let delta =
                    |sum: &f64| bounds::score(D, sum * base2) + 2.0 * self.read_error * sum * base2;
                let deltas: Vec<f64> = sums[first..first + keys].iter().map(delta).collect();
                let (steps, parts, value_error) = (self.steps, self.parts, self.read_error);
                let row = Row { scores: &row, deltas: &deltas, steps, parts, value_error }.bound();
                for c in 0..d {
                    let bound = row.output(|j| v[j * d + c]);
                    out.push(bounds::stored(self.out, truth.out[out.len()], bound));
                }
                lse.push(bounds::stored(DType::F32, 0.0, row.lse()));
            }
        }
        Ok(Reference { truth, out, lse })
    }

    /// Σ|q k| of the real and of the imaginary score.
    fn sums(
        &self,
        q: &[f64],
        k: &[f64],
        v: &[f64],
        heads: &HeadMap,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (q, k) = (abs(q), abs(k));
        // With the second members of the keys negative, Qb·Ka − Qa·Kb adds up.
        let half = D as usize / 2;
        let negative = |(n, x): (usize, &f64)| if n % D as usize >= half { -x } else { *x };
        let turned: Vec<f64> = k.iter().enumerate().map(negative).collect();
        let real = oracle::scores(&self.inputs(&q, &k, v, heads))?.0;
        let imaginary = oracle::scores(&self.inputs(&q, &turned, v, heads))?.1;
        Ok((real, imaginary))
    }
}

fn attention(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (q_heads, seq) = (2, 150);
    let (q_shape, kv_shape) = ([1, q_heads, seq, D], [1, 1, seq, D]);
    let out_shape = [1, 2 * q_heads, seq, D];
    let mut all = Vec::new();
    for dtype in TYPES {
        let problem = AttentionProblem {
            q_dtype: dtype,
            kv_dtype: dtype,
            out_dtype: dtype,
            lse: true,
            ..AttentionProblem::new(HeadMap::ropepp(q_heads)?, 1, D)
        };
        let plan = problem.plan(&gpu.capabilities())?;
        let kernel = Attention::new(&gpu.device, &plan)?;
        let [q, k, v] =
            [(q_shape, 1), (kv_shape, 2), (kv_shape, 3)].map(|(s, n)| random(s, dtype, n));
        let [q_buffer, k_buffer, v_buffer] = [&q, &k, &v].map(|x| gpu.upload(x, dtype));
        let out = gpu.output(elements(out_shape), dtype);
        let lse = gpu.output(elements(out_shape) / D as usize, DType::F32);
        let mut bindings = AttentionBindings::new(
            tensor(&q_buffer, dtype, q_shape)?,
            tensor(&k_buffer, dtype, kv_shape)?,
            tensor(&v_buffer, dtype, kv_shape)?,
            tensor(&out, dtype, out_shape)?,
        );
        bindings.lse = Some(lse.as_entire_buffer_binding());
        let call = kernel.bind(&gpu.device, &AttentionShape::new(1, seq, seq), &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let reference = Softmax {
            q: &q,
            k: &k,
            v: &v,
            q_heads,
            seq_q: seq,
            seq_k: seq,
            steps: seq.div_ceil(plan.tile().block_k()) as usize,
            parts: 1,
            read_error: 0.0,
            out: dtype,
        };
        let reference = reference.reference()?;
        let got = gpu.download(&out, dtype);
        all.push(Measured::new(
            "attention",
            dtype,
            Some(dtype),
            &got,
            &reference.truth.out,
            &reference.out,
        )?);
        let got = gpu.download(&lse, DType::F32);
        let storage = format!("{dtype}, log-sum-exp");
        all.push(Measured::new(
            "attention",
            storage,
            Some(DType::F32),
            &got,
            &reference.truth.lse,
            &reference.lse,
        )?);
    }
    Ok(all)
}

fn scores(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (q_heads, seq) = (2, 70);
    let (q_shape, k_shape) = ([1, q_heads, seq, D], [1, 1, seq, D]);
    let mut all = Vec::new();
    for dtype in TYPES {
        let problem = ScoresProblem {
            q_dtype: dtype,
            k_dtype: dtype,
            causal: false,
            output: ScoreOutput::Scores(Components::Planes),
            ..ScoresProblem::new(q_heads, 1, D)
        };
        let kernel = Scores::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
        let shape = ScoresShape::new(1, seq, seq);
        let [q, k] = [(q_shape, 1), (k_shape, 2)].map(|(s, n)| random(s, dtype, n));
        let [q_buffer, k_buffer] = [&q, &k].map(|x| gpu.upload(x, dtype));
        let out = gpu.output(kernel.plan().output_bytes(&shape) as usize / 4, DType::F32);
        let bindings = ScoresBindings {
            q: tensor(&q_buffer, dtype, q_shape)?,
            k: tensor(&k_buffer, dtype, k_shape)?,
            out: out.as_entire_buffer_binding(),
            lse: None,
        };
        let call = kernel.bind(&gpu.device, &shape, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let rows = Softmax {
            q: &q,
            k: &k,
            v: &k,
            q_heads,
            seq_q: seq,
            seq_k: seq,
            steps: 0,
            parts: 1,
            read_error: 0.0,
            out: DType::F32,
        };
        let heads = HeadMap::ropepp(q_heads)?;
        let [q, k] = [&q, &k].map(|x| wide(x));
        let scores = oracle::scores(&rows.inputs(&q, &k, &k, &heads))?;
        let sums = rows.sums(&q, &k, &k, &heads)?;
        let scale = f64::from(problem.softmax_scale);
        let (mut truth, mut bound) = (Vec::new(), Vec::new());
        let plane = (seq * seq) as usize;
        for head in 0..q_heads as usize {
            let range = head * plane..(head + 1) * plane;
            for (scores, sums) in [(&scores.0, &sums.0), (&scores.1, &sums.1)] {
                truth.extend(scores[range.clone()].iter().map(|s| s * scale));
                bound.extend(
                    sums[range.clone()]
                        .iter()
                        .map(|sum| bounds::stored(DType::F32, 0.0, bounds::score(D, sum * scale))),
                );
            }
        }
        let got = gpu.download(&out, DType::F32);
        all.push(Measured::new("scores", dtype, Some(DType::F32), &got, &truth, &bound)?);
    }
    Ok(all)
}

const CACHES: [CacheType; 4] = [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];

fn ulps(stored: CacheType) -> Option<DType> {
    match stored {
        CacheType::F32 => Some(DType::F32),
        CacheType::F16 => Some(DType::F16),
        _ => None,
    }
}

/// Keys on their way into a cache, rotated.
fn append(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (heads, seq) = (2, 60);
    let shape = [1, heads, seq, D];
    let table = frequencies()?.table(seq)?;
    let (table_buffer, table_shape) = (gpu.upload_bytes(table.as_bytes()), table.shape()?);
    let x = random(shape, DType::F32, 1);
    let new = gpu.upload(&x, DType::F32);
    let (truth, rotation) = rotated(&x, shape, 0)?;
    let mut all = Vec::new();
    for stored in CACHES {
        let cache = CacheFormat { k: stored, v: stored, ..CacheFormat::new(heads, D) };
        let problem = KvAppendProblem::new(cache);
        let kernel = KvAppend::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
        let layout = Layout::bhsd([1, heads, seq, stored.row(D)])?;
        let bytes = elements([1, heads, seq, 1]) * stored.row_bytes(D) as usize;
        let buffers = [(); 2].map(|()| gpu.upload_bytes(&vec![0xff; bytes]));
        let [k, v] = buffers.each_ref().map(|buffer| CacheTensor {
            binding: buffer.as_entire_buffer_binding(),
            stored,
            layout,
        });
        let lens = gpu.upload_u32(&[0]);
        let bindings = KvAppendBindings {
            k: tensor(&new, DType::F32, shape)?,
            v: tensor(&new, DType::F32, shape)?,
            cache: CacheBindings { k, v, block_table: None },
            lens: lens.as_entire_buffer_binding(),
            rotation: Some((
                CosSin { binding: table_buffer.as_entire_buffer_binding(), shape: table_shape },
                Positions::AmongKeys,
            )),
        };
        let call = kernel.bind(&gpu.device, &KvAppendShape::new(1, seq), &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let back = gpu.download_bytes(&buffers[0]);
        let got = oracle::decode_rows(&back[..bytes], D, stored)?;
        let block = if stored == CacheType::Q4 { 32 } else { D as usize };
        let bound: Vec<f64> = (0..truth.len())
            .map(|n| {
                let start = n / block * block;
                let most = truth[start..start + block].iter().fold(0.0, |m: f64, x| m.max(x.abs()));
                match stored {
                    CacheType::F32 => bounds::stored(DType::F32, truth[n], rotation[n]),
                    CacheType::F16 => bounds::stored(DType::F16, truth[n], rotation[n]),
                    // Half a step, of a scale and a quotient that are rounded; the rotation.
                    CacheType::Int8 => most * (0.5 / 127.0 + 16.0 * U) + rotation[n],
                    // A step at the end without a code; the scale is an f16.
                    _ => most * (1.0 / 8.0 + 1.0 / 1024.0) + rotation[n],
                }
            })
            .collect();
        all.push(Measured::new("kv_append", stored, ulps(stored), &got, &truth, &bound)?);
    }
    Ok(all)
}

fn decode(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (q_heads, keys, splits) = (2, 300, 3);
    let (q_shape, out_shape) = ([1, q_heads, 1, D], [1, 2 * q_heads, 1, D]);
    let q = random(q_shape, DType::F32, 1);
    let rows = [2, 3].map(|seed| random([1, 1, keys, D], DType::F32, seed));
    let mut all = Vec::new();
    for stored in CACHES {
        let cache = CacheFormat { k: stored, v: stored, ..CacheFormat::new(1, D) };
        let problem = DecodeProblem {
            lse: true,
            ..DecodeProblem::new(HeadMap::ropepp(q_heads)?, cache, 1, keys)
        };
        let caps = gpu.capabilities();
        let tile = *problem.plan(&caps)?.tile();
        let plan = DecodePlan::with_parts(&problem, &caps, tile, splits)?;
        let kernel = Decode::new(&gpu.device, &plan)?;
        let mut bytes = Vec::new();
        for rows in &rows {
            bytes.push(oracle::encode_rows(rows, D, stored)?);
        }
        let buffers = [&bytes[0], &bytes[1]].map(|bytes| gpu.upload_bytes(bytes));
        let layout = Layout::bhsd([1, 1, keys, stored.row(D)])?;
        let [k, v] = buffers.each_ref().map(|buffer| CacheTensor {
            binding: buffer.as_entire_buffer_binding(),
            stored,
            layout,
        });
        let q_buffer = gpu.upload(&q, DType::F32);
        let out = gpu.output(elements(out_shape), DType::F32);
        let lse = gpu.output(2 * q_heads as usize, DType::F32);
        let lens = gpu.upload_u32(&[keys]);
        let workspace = gpu.output(plan.workspace_bytes() as usize / 4, DType::F32);
        let bindings = DecodeBindings {
            q: tensor(&q_buffer, DType::F32, q_shape)?,
            cache: CacheBindings { k, v, block_table: None },
            kv_lens: lens.as_entire_buffer_binding(),
            out: tensor(&out, DType::F32, out_shape)?,
            lse: Some(lse.as_entire_buffer_binding()),
            rotation: None,
            bias: None,
            workspace: Some(workspace.as_entire_buffer_binding()),
        };
        let call = kernel.bind(&gpu.device, &DecodeShape { batch: 1, seq_q: 1 }, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        // What the cache holds is what is attended to.
        let k = oracle::decode_rows(&bytes[0], D, stored)?;
        let v = oracle::decode_rows(&bytes[1], D, stored)?;
        let reference = Softmax {
            q: &q,
            k: &k,
            v: &v,
            q_heads,
            seq_q: 1,
            seq_k: keys,
            steps: keys.div_ceil(tile.block_k()) as usize,
            parts: splits as usize,
            // Code times scale.
            read_error: if ulps(stored).is_none() { U } else { 0.0 },
            out: DType::F32,
        };
        let reference = reference.reference()?;
        let got = gpu.download(&out, DType::F32);
        all.push(Measured::new(
            "decode",
            stored,
            Some(DType::F32),
            &got,
            &reference.truth.out,
            &reference.out,
        )?);
    }
    Ok(all)
}

fn merge(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (parts, heads, seq) = (5, 2, 20);
    let (shape, out_shape) = ([parts, heads, seq, D], [1, heads, seq, D]);
    let mut all = Vec::new();
    for dtype in TYPES {
        let problem = MergeProblem { part_dtype: dtype, out_dtype: dtype, ..MergeProblem::new(D) };
        let kernel = Merge::new(&gpu.device, &problem.plan(&gpu.capabilities())?)?;
        let x = random(shape, dtype, 1);
        let lses = random([parts, 1, heads, seq], DType::F32, 2);
        let lses: Vec<f32> = lses.iter().map(|x| 4.0 * x).collect();
        let (x_buffer, lse_buffer) = (gpu.upload(&x, dtype), gpu.upload(&lses, DType::F32));
        let out = gpu.output(elements(out_shape), dtype);
        let bindings = MergeBindings {
            parts: tensor(&x_buffer, dtype, shape)?,
            lse_parts: lse_buffer.as_entire_buffer_binding(),
            out: tensor(&out, dtype, out_shape)?,
            lse: None,
        };
        let shape = MergeShape { parts, batch: 1, heads, seq };
        let call = kernel.bind(&gpu.device, &shape, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let (rows, d) = ((heads * seq) as usize, D as usize);
        let part = |p: usize| oracle::Attention {
            out: wide(&x[p * rows * d..(p + 1) * rows * d]),
            lse: wide(&lses[p * rows..(p + 1) * rows]),
        };
        let truth =
            oracle::merge_states(&(0..parts as usize).map(part).collect::<Vec<_>>(), None)?.out;
        let mut bound = Vec::new();
        for row in 0..rows {
            let lse = |p: usize| f64::from(lses[p * rows + row]);
            let scores: Vec<f64> =
                (0..parts as usize).map(|p| lse(p) * std::f64::consts::LOG2_E).collect();
            let deltas: Vec<f64> = scores.iter().map(|s| 4.0 * U * s.abs()).collect();
            let row_bound =
                Row { scores: &scores, deltas: &deltas, steps: 0, parts: 1, value_error: 0.0 }
                    .bound();
            for c in 0..d {
                let b = row_bound.output(|p| x[(p * rows + row) * d + c].into());
                bound.push(bounds::stored(dtype, truth[row * d + c], b));
            }
        }
        let got = gpu.download(&out, dtype);
        all.push(Measured::new("merge", dtype, Some(dtype), &got, &truth, &bound)?);
    }
    Ok(all)
}

fn linear(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (heads, seq) = (2, 100);
    let shape = [1, heads, seq, D];
    let table = frequencies()?.table(seq)?;
    let (table_buffer, table_shape) = (gpu.upload_bytes(table.as_bytes()), table.shape()?);
    let frequencies = frequencies()?;
    let mut all = Vec::new();
    for dtype in TYPES {
        let problem = LinearAttentionProblem {
            q_dtype: dtype,
            kv_dtype: dtype,
            out_dtype: dtype,
            ..LinearAttentionProblem::new(HeadMap::plain(heads)?, heads, D)
        };
        let plan = problem.plan(&gpu.capabilities())?;
        let kernel = LinearAttention::new(&gpu.device, &plan)?;
        let sizes = LinearAttentionShape::new(1, seq);
        let data = [1, 2, 3].map(|seed| random(shape, dtype, seed));
        let [q, k, v] = data.each_ref().map(|x| gpu.upload(x, dtype));
        let out = gpu.output(elements(shape), dtype);
        let workspace = gpu.output(plan.workspace_bytes(&sizes) as usize / 4, DType::F32);
        let bindings = LinearAttentionBindings {
            q: tensor(&q, dtype, shape)?,
            k: tensor(&k, dtype, shape)?,
            v: tensor(&v, dtype, shape)?,
            out: tensor(&out, dtype, shape)?,
            workspace: workspace.as_entire_buffer_binding(),
            rotation: Some(LinearRotation {
                table: CosSin {
                    binding: table_buffer.as_entire_buffer_binding(),
                    shape: table_shape,
                },
                positions: Positions::From(0),
                q_positions: None,
            }),
            state: None,
            random: None,
        };
        let call = kernel.bind(&gpu.device, &sizes, &bindings)?;
        gpu.run(|encoder| call.encode(encoder));

        let [q, k, v] = data.each_ref().map(|x| wide(x));
        let (q, k) = (oracle::elu_plus_one(&q), oracle::elu_plus_one(&k));
        let turn = |_, s, pair| frequencies.cos_sin(s, pair as usize);
        let map = HeadMap::plain(heads)?;
        let truth = oracle::linear_attention(&LinearInputs {
            q_rotated: &oracle::rope(&q, shape, D, Pairing::Half, turn)?,
            q: &q,
            q_shape: shape,
            k_rotated: &oracle::rope(&k, shape, D, Pairing::Half, turn)?,
            k: &k,
            k_shape: shape,
            v: &v,
            v_shape: shape,
            rotary_dim: D,
            pairing: Pairing::Half,
            heads: map.heads(),
            causal: true,
        })?;
        let bound = linear_bound(dtype, [&q, &k, &v], &truth, heads, seq);
        let got = gpu.download(&out, dtype);
        all.push(Measured::new("linear attention", dtype, Some(dtype), &got, &truth, &bound)?);
    }
    Ok(all)
}

/// Of causal linear attention; features are given before the rotation.
fn linear_bound(
    dtype: DType,
    [q, k, v]: [&[f64]; 3],
    truth: &[f64],
    heads: u32,
    seq: u32,
) -> Vec<f64> {
    let (seq, d) = (seq as usize, D as usize);
    let half = d / 2;
    // Features of at most e², and the rotation of both sides.
    let relative = gamma(d + seq + 64) + 2.0 * bounds::exp_error(2.0) + 16.0 * U;
    let mut bound = Vec::new();
    for head in 0..heads as usize {
        for i in 0..seq {
            let query = &q[(head * seq + i) * d..][..d];
            let (mut above, mut below) = (vec![0.0; d], 0.0);
            for j in 0..=i {
                let key = &k[(head * seq + j) * d..][..d];
                let (mut most, mut plain) = (0.0, 0.0);
                let (first, second) = (query.split_at(half), key.split_at(half));
                let pairs = first.0.iter().zip(first.1).zip(second.0.iter().zip(second.1));
                for ((a, b), (c, e)) in pairs {
                    most += (a + b) * (c + e);
                    plain += a * c + b * e;
                }
                below += plain;
                let value = &v[(head * seq + j) * d..][..d];
                above.iter_mut().zip(value).for_each(|(sum, v)| *sum += most * v.abs());
            }
            for above in &above {
                let out = truth[bound.len()];
                let b = (above + out.abs() * below) * relative / below + 8.0 * U * out.abs();
                bound.push(bounds::stored(dtype, out, b));
            }
        }
    }
    bound
}
