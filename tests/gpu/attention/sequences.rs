//! Sequences of different lengths in one call: ragged queries and keys, pages. Each sequence must
//! get the very bits that it gets alone over contiguous keys.

use phasor::attention::{
    Alignment, AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape, Keys, Queries,
};
use phasor::cache::{BlockTable, CacheFormat};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::{Budget, DType, Layout, MaskHook, Precision, ScoreHook, Tensor};

use super::{capabilities, control, quick_tile};
use crate::harness::{Result, lab, random};

/// Queries and keys of each sequence: prefill, decode, a chunk, a whole prompt, nothing at all.
const LENGTHS: [(u32, u32); 6] = [(9, 9), (1, 30), (5, 17), (23, 23), (0, 4), (3, 8)];
const PAGE: u32 = 8;

/// Storage buffers of the largest call here, a rotation included.
const BUFFERS: u32 = 11;

/// The query is rotated in the kernel where the device can bind all of it.
fn problem() -> AttentionProblem {
    let rotate_q = lab().gpu.capabilities().max_storage_buffers >= BUFFERS;
    AttentionProblem { alignment: Alignment::LastKey, rotate_q, ..control() }
}

/// All that models add to it. The functions do not look at the batch, which differs.
fn every_variant() -> AttentionProblem {
    let score = "fn score_mod(s: f32, b: u32, h: u32, q: i32, k: i32) -> f32 {
        return 0.5 * s + 0.125 * f32(h) * f32(q - k);
    }";
    let mask = "fn mask_mod(b: u32, h: u32, q: i32, k: i32) -> bool {
        return k % 3 == 0 || q - k < 4;
    }";
    AttentionProblem {
        window: Some(11),
        softcap: Some(3.0),
        alibi_slopes: vec![0.5, 0.25, 0.125, 0.0],
        sinks: vec![0.7, -2.0, f32::NEG_INFINITY, 30.0],
        score_mod: Some(ScoreHook::new(score).unwrap()),
        mask_mod: Some(MaskHook::new(mask).unwrap()),
        prefix: true,
        ..problem()
    }
}

/// Keys of each sequence that are visible to all of its queries.
const PREFIXES: [u32; 6] = [4, 30, 14, 0, 2, 100];

fn plan(problem: &AttentionProblem) -> phasor::Result<AttentionPlan> {
    let tile = quick_tile(problem.head_dim);
    AttentionPlan::with_tile(problem, &capabilities(), tile)
}

/// `(q, k, v)` of one sequence, `[heads, rows, D]`.
fn sequence(n: usize) -> [Vec<f32>; 3] {
    let (rows, keys) = LENGTHS[n];
    let seed = 10 * n as u64;
    [(2, rows, seed), (1, keys, seed + 1), (1, keys, seed + 2)]
        .map(|(heads, rows, seed)| random([1, heads, rows, 16], 2.0, DType::F32, seed))
}

/// `[heads, rows, D]` of all sequences, one behind the other along the rows.
fn packed(which: usize, heads: u32) -> Vec<f32> {
    let all: Vec<_> = (0..LENGTHS.len()).map(|n| sequence(n)[which].clone()).collect();
    let head = |data: &[f32], h: usize| {
        let rows = data.len() / heads as usize;
        data[h * rows..(h + 1) * rows].to_vec()
    };
    (0..heads as usize).flat_map(|h| all.iter().flat_map(move |data| head(data, h))).collect()
}

fn running_sums(lengths: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut sums = vec![0];
    sums.extend(lengths.scan(0, |sum, n| {
        *sum += n;
        Some(*sum)
    }));
    sums
}

/// Runs one call over q, k and v with `extra` bindings; out `[heads_out, rows, D]` and lse.
fn run(
    problem: &AttentionProblem,
    shape: AttentionShape,
    [q, k, v]: [(&[f32], Layout); 3],
    lengths: [&[u32]; 5],
) -> Result<[Vec<f32>; 2]> {
    let gpu = &lab().gpu;
    let table = RopeConfig::new(16, 1e4).table(64, 64)?;
    let table_buffer = gpu.upload_bytes(table.as_bytes());
    let buffers = [q.0, k.0, v.0].map(|data| gpu.upload(data, DType::F32));
    let words = lengths.map(|words| (!words.is_empty()).then(|| gpu.upload_u32(words)));
    let bind = |n: usize| words[n].as_ref().map(|buffer| buffer.as_entire_buffer_binding());
    let [batch, _, rows, _] = q.1.shape;
    let out_layout = Layout::bhsd([batch, 4, rows, 16])?;
    let out = gpu.output(out_layout.elements() as usize, DType::F32);
    let lse = gpu.output(out_layout.elements() as usize / 16, DType::F32);
    let plan = plan(problem)?;
    let budget = match problem.resumable {
        true => Budget::flops(2 * plan.least_budget(&shape).limit()),
        false => Budget::UNLIMITED,
    };
    let workspace =
        gpu.output(plan.cut(&shape, budget)?.workspace_bytes() as usize / 4, DType::F32);
    let mut bindings = AttentionBindings {
        workspace: problem.resumable.then(|| workspace.as_entire_buffer_binding()),
        lse: Some(lse.as_entire_buffer_binding()),
        kv_lens: bind(0),
        cu_seqlens_q: bind(1),
        cu_seqlens_k: bind(2),
        prefix_lens: bind(4),
        rotation: problem.rotate_q.then_some(Rotation::new(
            CosSin { binding: table_buffer.as_entire_buffer_binding(), shape: table.shape()? },
            Positions::AmongKeys,
        )),
        ..AttentionBindings::new(
            Tensor::new(&buffers[0], DType::F32, q.1),
            Tensor::new(&buffers[1], DType::F32, k.1),
            Tensor::new(&buffers[2], DType::F32, v.1),
            Tensor::new(&out, DType::F32, out_layout),
        )
    };
    bindings.cache.block_table =
        bind(3).map(|binding| BlockTable { binding, max_pages: shape.seq_k.div_ceil(PAGE) });
    let kernel = lab().attention(&plan)?;
    let dispatch = kernel.bind_within(&gpu.device, &shape, &bindings, budget)?;
    assert_eq!(dispatch.parts().len() > 10, problem.resumable);
    gpu.run(|encoder| dispatch.encode(encoder));
    let trim = |buffer, n: u64| {
        let mut data = gpu.download(buffer, DType::F32);
        data.truncate(n as usize);
        data
    };
    Ok([trim(&out, out_layout.elements()), trim(&lse, out_layout.elements() / 16)])
}

/// Each sequence alone, put together as a ragged call writes them.
fn alone(problem: &AttentionProblem) -> Result<[Vec<f32>; 2]> {
    let mut parts = Vec::new();
    for (n, &(rows, keys)) in LENGTHS.iter().enumerate() {
        let [q, k, v] = sequence(n);
        let kv = Layout::bhsd([1, 1, keys, 16])?;
        let tensors = [(&q[..], Layout::bhsd([1, 2, rows, 16])?), (&k[..], kv), (&v[..], kv)];
        let shape = AttentionShape::new(1, rows, keys);
        let prefix = if problem.prefix { &PREFIXES[n..n + 1] } else { &[] };
        parts.push(run(problem, shape, tensors, [&[], &[], &[], &[], prefix])?);
    }
    Ok([0, 1].map(|which| {
        let head = |part: &[Vec<f32>; 2], h: usize| {
            let rows = part[which].len() / 4;
            part[which][h * rows..(h + 1) * rows].to_vec()
        };
        (0..4).flat_map(|h| parts.iter().flat_map(move |part| head(part, h))).collect()
    }))
}

fn same_bits(name: &str, got: &[Vec<f32>; 2], wanted: &[Vec<f32>; 2]) {
    let bits = |data: &[f32]| data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (got, wanted) in got.iter().zip(wanted) {
        assert!(wanted.iter().all(|x| !x.is_nan()), "{name}: the reference is not complete");
        assert_eq!(bits(got), bits(wanted), "{name}");
    }
}

#[test]
fn ragged_and_paged_sequences_get_the_bits_they_get_alone() {
    ragged_and_paged(&problem());
}

#[test]
fn variants_get_the_bits_they_get_alone() {
    ragged_and_paged(&every_variant());
}

fn ragged_and_paged(problem: &AttentionProblem) {
    let wanted = alone(problem).unwrap();
    let prefixes: &[u32] = if problem.prefix { &PREFIXES } else { &[] };
    let batch = LENGTHS.len() as u32;
    let most = |f: fn(&(u32, u32)) -> u32| LENGTHS.iter().map(f).max().unwrap();
    let shape = AttentionShape::new(batch, most(|l| l.0), most(|l| l.1));
    let [rows, keys] = [|l: &(u32, u32)| l.0, |l: &(u32, u32)| l.1];
    let cu_q = running_sums(LENGTHS.iter().map(rows));
    let cu_k = running_sums(LENGTHS.iter().map(keys));
    let lens: Vec<u32> = LENGTHS.iter().map(keys).collect();
    let [q, k, v] = [packed(0, 2), packed(1, 1), packed(2, 1)];
    let total = |cu: &[u32]| *cu.last().unwrap();
    let q_layout = Layout::bhsd([1, 2, total(&cu_q), 16]).unwrap();
    let kv_layout = Layout::bhsd([1, 1, total(&cu_k), 16]).unwrap();

    let ragged =
        AttentionProblem { queries: Queries::Ragged, keys: Keys::Ragged, ..problem.clone() };
    let tensors = [(&q[..], q_layout), (&k[..], kv_layout), (&v[..], kv_layout)];
    let got = run(&ragged, shape, tensors, [&[], &cu_q, &cu_k, &[], prefixes]).unwrap();
    same_bits("ragged q and k", &got, &wanted);

    // A batch with room for the longest sequence, NaN in the padding.
    let padded = |which: usize| -> Vec<f32> {
        (0..LENGTHS.len())
            .flat_map(|n| {
                let mut data = sequence(n)[which].clone();
                data.resize((shape.seq_k * 16) as usize, f32::NAN);
                data
            })
            .collect()
    };
    let (k_padded, v_padded) = (padded(1), padded(2));
    let layout = Layout::bhsd([batch, 1, shape.seq_k, 16]).unwrap();
    let cache = AttentionProblem { queries: Queries::Ragged, ..problem.clone() };
    let tensors = [(&q[..], q_layout), (&k_padded[..], layout), (&v_padded[..], layout)];
    let got = run(&cache, shape, tensors, [&lens, &cu_q, &[], &[], prefixes]).unwrap();
    same_bits("ragged q over a batched cache", &got, &wanted);

    // Pages in no order, unused ones and the ends of used ones full of NaN.
    let per_sequence = shape.seq_k.div_ceil(PAGE);
    let pages = batch * per_sequence + 3;
    let page_of = |b: u32, n: u32| (b * per_sequence + n) * 7 % pages;
    assert!(!pages.is_multiple_of(7), "the pages of the table must differ");
    let paged = |which: usize| -> Vec<f32> {
        let mut pool = vec![f32::NAN; (pages * PAGE * 16) as usize];
        for (n, &(_, keys)) in LENGTHS.iter().enumerate() {
            for (j, row) in (0..keys).zip(sequence(n)[which].chunks_exact(16)) {
                let at = (page_of(n as u32, j / PAGE) * PAGE + j % PAGE) * 16;
                pool[at as usize..][..16].copy_from_slice(row);
            }
        }
        pool
    };
    let table: Vec<u32> =
        (0..batch).flat_map(|b| (0..per_sequence).map(move |n| page_of(b, n))).collect();
    let (k_pool, v_pool) = (paged(1), paged(2));
    let layout = Layout::bhsd([pages, 1, PAGE, 16]).unwrap();
    let format = CacheFormat { paged: true, ..CacheFormat::new(1, 16) };
    let problem = AttentionProblem { keys: Keys::Cache(format), ..cache };
    let tensors = [(&q[..], q_layout), (&k_pool[..], layout), (&v_pool[..], layout)];
    let got = run(&problem, shape, tensors, [&lens, &cu_q, &[], &table, prefixes]).unwrap();
    same_bits("ragged q over pages", &got, &wanted);
    // One more kernel to compile: not for every variant.
    let resumes = problem.precision == Precision::F32;
    if resumes && !problem.prefix {
        let resumable = AttentionProblem { resumable: true, ..problem.clone() };
        let got = run(&resumable, shape, tensors, [&lens, &cu_q, &[], &table, prefixes]).unwrap();
        same_bits("ragged q over pages, in parts", &got, &wanted);
    }

    // Lengths and pages from the device that cannot be right stay within their buffers.
    let wild = vec![u32::MAX; table.len()];
    let too_long = vec![u32::MAX; LENGTHS.len()];
    run(&problem, shape, tensors, [&too_long, &cu_q, &[], &wild, prefixes]).unwrap();
}
