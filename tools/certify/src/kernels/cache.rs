//! Kernels over caches, and the merge of partial results.

use phasor::cache::{CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{Decode, DecodeBindings, DecodePlan, DecodeProblem, DecodeShape};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::kv_move::{KvMove, KvMoveBindings, KvMoveProblem, KvMoveShape, Move};
use phasor::merge::{Merge, MergeBindings, MergeProblem, MergeShape};
use phasor::rotary::{CosSin, Pairing, Positions, Rotation};
use phasor::{DType, HeadMap, Layout, Precision, oracle};
use phasor_kit::gpu::Gpu;

use super::{D, TYPES, elements, frequencies, random, reference::Softmax, rotated, tensor, wide};
use crate::{
    Measured, Result,
    bounds::{self, Row, U},
};

const CACHES: [CacheType; 4] = [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];

fn ulps(stored: CacheType) -> Option<DType> {
    match stored {
        CacheType::F32 => Some(DType::F32),
        CacheType::F16 => Some(DType::F16),
        _ => None,
    }
}

/// How far off a rotated key may be after it was stored.
fn in_cache(stored: CacheType, truth: &[f64], rotation: &[f64]) -> Vec<f64> {
    let block = if stored == CacheType::Q4 { 32 } else { D as usize };
    let bound = |n: usize| {
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
    };
    (0..truth.len()).map(bound).collect()
}

/// Keys on their way into a cache, rotated.
pub fn append(gpu: &Gpu) -> Result<Vec<Measured>> {
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
            rotation: Some(Rotation::new(
                CosSin { binding: table_buffer.as_entire_buffer_binding(), shape: table_shape },
                Positions::AmongKeys,
            )),
        };
        let call = kernel.bind(&gpu.device, &KvAppendShape::new(1, seq), &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        let back = gpu.download_bytes(&buffers[0]);
        let got = oracle::decode_rows(&back[..bytes], D, stored)?;
        let bound = in_cache(stored, &truth, &rotation);
        all.push(Measured::new("kv_append", stored, ulps(stored), &got, &truth, &bound)?);
    }
    Ok(all)
}

/// Keys of a context shift: turned back by as many positions as were lost in front of them.
pub fn shift(gpu: &Gpu) -> Result<Vec<Measured>> {
    let (heads, kept, lost, rows) = (2, 4, 20, 60);
    let shape = [1, heads, rows, D];
    let moved = [1, heads, rows - kept - lost, D];
    let frequencies = frequencies()?;
    let table = frequencies.table(rows)?;
    let (table_buffer, table_shape) = (gpu.upload_bytes(table.as_bytes()), table.shape()?);
    let x = random(shape, DType::F32, 1);
    let mut all = Vec::new();
    for stored in CACHES {
        let cache = CacheFormat { k: stored, v: stored, ..CacheFormat::new(heads, D) };
        let kernel =
            KvMove::new(&gpu.device, &KvMoveProblem::new(cache).plan(&gpu.capabilities())?)?;
        let before = oracle::encode_rows(&x, D, stored)?;
        let layout = Layout::bhsd([1, heads, rows, stored.row(D)])?;
        let buffers = [(); 2].map(|()| gpu.upload_bytes(&before));
        let [k, v] = buffers.each_ref().map(|buffer| CacheTensor {
            binding: buffer.as_entire_buffer_binding(),
            stored,
            layout,
        });
        let binding = table_buffer.as_entire_buffer_binding();
        let bindings = KvMoveBindings {
            cache: CacheBindings { k, v, block_table: None },
            table: Some(CosSin { binding, shape: table_shape }),
        };
        let moves = [Move::shift(0, kept, lost, rows)];
        let call = kernel.bind(&gpu.device, &KvMoveShape::new(1, &moves), &bindings)?;
        gpu.run(|encoder| call.encode(encoder));
        // Of every head, the rows that came and those that went, in one plane.
        let of = |all: &[f32], first: u32| -> Vec<f32> {
            let head = all.chunks_exact((rows * D) as usize);
            head.flat_map(|head| &head[(first * D) as usize..][..(moved[2] * D) as usize])
                .copied()
                .collect()
        };
        let old = of(&oracle::decode_rows(&before, D, stored)?, kept + lost);
        let after = gpu.download_bytes(&buffers[0]);
        let got = of(&oracle::decode_rows(&after[..before.len()], D, stored)?, kept);
        let turn = |_, _, pair: u32| {
            let (cos, sin) = frequencies.cos_sin(lost, pair as usize);
            (cos, -sin)
        };
        let truth = oracle::rope(&wide(&old), moved, D, Pairing::Half, turn)?;
        let (row, half) = (D as usize, D as usize / 2);
        let rotation: Vec<f64> = (0..truth.len())
            .map(|n| {
                let (start, pair) = (n / row * row, n % half);
                let (cos, sin) = frequencies.cos_sin(lost, pair);
                let (a, b) = (old[start + pair], old[start + pair + half]);
                bounds::rotation(a.into(), b.into(), cos, sin)
            })
            .collect();
        let bound = in_cache(stored, &truth, &rotation);
        all.push(Measured::new("kv_move", stored, ulps(stored), &got, &truth, &bound)?);
    }
    Ok(all)
}

pub fn decode(gpu: &Gpu) -> Result<Vec<Measured>> {
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
        let workspace =
            gpu.output(plan.workspace_bytes(&plan.problem().largest()) as usize / 4, DType::F32);
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
            precision: Precision::F32,
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

pub fn merge(gpu: &Gpu) -> Result<Vec<Measured>> {
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
        let part = |p: usize| oracle::Attended {
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
            let row_bound = Row {
                scores: &scores,
                deltas: &deltas,
                steps: 0,
                parts: 1,
                value_error: 0.0,
                products: 1,
            }
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
