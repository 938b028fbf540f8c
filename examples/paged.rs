//! Two sequences that share a prefix, in a paged cache: the prefix is appended once, both block
//! tables name its pages, and each sequence goes on with pages of its own.
//!
//! ```sh
//! cargo run --release --example paged
//! ```
//!
//! ```text
//! append   the prefix, through the table of sequence 0
//! check    a host that knows its tables asks before it writes: shared pages are not written to
//! append   what each prompt has after the prefix: rows of both sequences, one behind the other
//! 5 steps  append a token to each, decode both; only lengths change, nothing is bound again
//! ```
//!
//! Every decoded row is held to the f64 oracle, which knows nothing of pages or shared prefixes.

#[path = "ropepp/device.rs"]
mod device;

use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheTensor, CacheType, Pages};
use phasor::decode::{Decode, DecodeBindings, DecodeProblem, DecodeShape};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::oracle::{self, AttentionInputs, Real};
use phasor::rotary::{CosSin, Pairing, Positions, RopeConfig, Rotation};
use phasor::{Capabilities, DType, HeadMap, Layout, Tensor, wgpu};

use device::Gpu;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const DIM: u32 = 64;
const PAGE: u32 = 16;
const POOL: u32 = 9;
const MAX_PAGES: u32 = 5;
const CAPACITY: u32 = PAGE * MAX_PAGES;
/// Three whole pages: what is shared is never written to again.
const PREFIX: u32 = 3 * PAGE;
/// What each prompt has after the prefix.
const OWN: [u32; 2] = [14, 6];
const STEPS: u32 = 5;

/// Pages of both sequences, the first three shared. Entries of 99 are not in use yet.
const TABLE: [u32; 10] = [7, 2, 5, 0, 99, 7, 2, 5, 3, 99];

/// Keys or values of both sequences as the oracle wants them: `[token][H_kv][D]`, un-rotated.
type Tokens = [Vec<f32>; 2];

fn main() -> Result<()> {
    let gpu = Gpu::new()?;
    let caps = Capabilities::of(&gpu.device);
    println!("{}", caps.adapter);
    // Numbers without a pattern that matters.
    let mut count = 0.0f32;
    let mut random = |rows: u32| -> Vec<f32> {
        let mut next = || {
            count += 1.0;
            (count * count * 0.37).sin()
        };
        (0..rows * DIM).map(|_| next()).collect()
    };

    // The pool, its table, and the kernels.
    let format = CacheFormat { paged: true, ..CacheFormat::new(KV_HEADS, DIM) };
    let append = KvAppend::new(&gpu.device, &KvAppendProblem::new(format).plan(&caps)?)?;
    let heads = HeadMap::ropepp(HEADS)?;
    let problem =
        DecodeProblem { rotate_q: true, ..DecodeProblem::new(heads.clone(), format, 2, CAPACITY) };
    let plan = problem.plan(&caps)?;
    println!("{plan}\n");
    let decode = Decode::new(&gpu.device, &plan)?;

    let layout = Layout::bhsd([POOL, KV_HEADS, PAGE, DIM])?;
    let pools = [(); 2].map(|()| gpu.output(layout.elements() as usize));
    let block_table = gpu.upload(bytemuck::cast_slice(&TABLE));
    let cache = || {
        let [k, v] = pools.each_ref().map(|pool| {
            let binding = pool.as_entire_buffer_binding();
            CacheTensor { binding, stored: CacheType::F32, layout }
        });
        let binding = block_table.as_entire_buffer_binding();
        CacheBindings { k, v, block_table: Some(BlockTable { binding, max_pages: MAX_PAGES }) }
    };
    let config = RopeConfig::new(DIM, 1e4);
    let table = config.table(CAPACITY, CAPACITY.into())?;
    let angles = gpu.upload(table.as_bytes());
    let shape = table.shape()?;
    let rotation = || {
        let table = CosSin { binding: angles.as_entire_buffer_binding(), shape };
        Rotation::new(table, Positions::AmongKeys)
    };

    let floats = |x: &[f32]| gpu.upload(bytemuck::cast_slice(x));
    // New rows come as [1, H_kv, rows, D]; `lens` says how many are there already.
    let write = |k: &[f32], v: &[f32], shape: KvAppendShape, lens: &[u32]| -> Result<()> {
        let (k, v) = (floats(k), floats(v));
        let lens = gpu.upload(bytemuck::cast_slice(lens));
        let rows = shape.ragged.unwrap_or(shape.seq);
        let layout = Layout::bhsd([1, KV_HEADS, rows, DIM])?;
        let bindings = KvAppendBindings {
            rotation: Some(rotation()),
            ..KvAppendBindings::new(
                Tensor::new(&k, DType::F32, layout),
                Tensor::new(&v, DType::F32, layout),
                cache(),
                lens.as_entire_buffer_binding(),
            )
        };
        let call = append.bind(&gpu.device, &shape, &bindings)?;
        gpu.run(|encoder| call.encode(encoder))
    };

    // The prefix, once.
    let pages = Pages { table: &TABLE, max_pages: MAX_PAGES, pages: POOL, page_size: PAGE };
    let (k, v) = (random(KV_HEADS * PREFIX), random(KV_HEADS * PREFIX));
    let first = Pages { table: &TABLE[..MAX_PAGES as usize], ..pages };
    first.check_append(&[0], &[PREFIX])?;
    write(&k, &v, KvAppendShape::new(1, PREFIX), &[0])?;
    let mut keys: Tokens = [by_token(&k), by_token(&k)];
    let mut values: Tokens = [by_token(&v), by_token(&v)];

    // A write to the shared pages is refused on the host, before anything is recorded.
    match pages.check_append(&[PREFIX - 1; 2], &[1; 2]) {
        Err(error) => println!("a write into the prefix: {error}"),
        Ok(()) => return Err("a write to a shared page went through".into()),
    }

    // The rest of both prompts in one call, ragged: lengths, then where each sequence's rows begin.
    pages.check_append(&[PREFIX; 2], &OWN)?;
    let rows = OWN[0] + OWN[1];
    let (k, v) = (random(KV_HEADS * rows), random(KV_HEADS * rows));
    let ragged = KvAppendShape { ragged: Some(rows), ..KvAppendShape::new(2, OWN[0].max(OWN[1])) };
    write(&k, &v, ragged, &[PREFIX, PREFIX, 0, OWN[0], rows])?;
    for (all, new) in [(&mut keys, by_token(&k)), (&mut values, by_token(&v))] {
        let (first, second) = new.split_at((OWN[0] * KV_HEADS * DIM) as usize);
        all[0].extend(first);
        all[1].extend(second);
    }

    // The loop: bound once; every step writes tokens and lengths into the same buffers.
    let [new_k, new_v] = [(); 2].map(|()| gpu.output((2 * KV_HEADS * DIM) as usize));
    let q = gpu.output((2 * HEADS * DIM) as usize);
    let out = gpu.output((2 * 2 * HEADS * DIM) as usize);
    let [before, after] = [(); 2].map(|()| gpu.upload(&[0; 8]));
    let workspace = gpu.output(plan.workspace_bytes() as usize / 4);
    let tensor = |buffer, heads| -> Result<Tensor<'_>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([2, heads, 1, DIM])?))
    };
    let append_one = append.bind(
        &gpu.device,
        &KvAppendShape::new(2, 1),
        &KvAppendBindings {
            rotation: Some(rotation()),
            ..KvAppendBindings::new(
                tensor(&new_k, KV_HEADS)?,
                tensor(&new_v, KV_HEADS)?,
                cache(),
                before.as_entire_buffer_binding(),
            )
        },
    )?;
    let attend = decode.bind(
        &gpu.device,
        &DecodeShape::new(2, 1),
        &DecodeBindings {
            rotation: Some(rotation()),
            workspace: (plan.workspace_bytes() > 0).then(|| workspace.as_entire_buffer_binding()),
            ..DecodeBindings::new(
                tensor(&q, HEADS)?,
                cache(),
                after.as_entire_buffer_binding(),
                tensor(&out, 2 * HEADS)?,
            )
        },
    )?;
    let mut tables = TABLE;
    for step in 0..STEPS {
        let lens = OWN.map(|own| PREFIX + own + step);
        // A sequence that runs out of its page takes another from the pool. Only the table changes.
        for (b, len) in lens.iter().enumerate().filter(|(_, len)| **len % PAGE == 0) {
            tables[b * MAX_PAGES as usize + (len / PAGE) as usize] = [1, 8][b];
            gpu.queue.write_buffer(&block_table, 0, bytemuck::cast_slice(&tables));
        }
        Pages { table: &tables, ..pages }.check_append(&lens, &[1; 2])?;
        let tokens = [random(2 * KV_HEADS), random(2 * KV_HEADS), random(2 * HEADS)];
        for (buffer, data) in [&new_k, &new_v, &q].into_iter().zip(&tokens) {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(data));
        }
        gpu.queue.write_buffer(&before, 0, bytemuck::cast_slice(&lens));
        gpu.queue.write_buffer(&after, 0, bytemuck::cast_slice(&lens.map(|len| len + 1)));
        gpu.run(|encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            append_one.record(&mut pass);
            attend.record(&mut pass);
        })?;

        let got = gpu.download(&out)?;
        let mut largest = (0.0, 0.0);
        for b in 0..2 {
            let own = |x: &[f32]| x[b * x.len() / 2..][..x.len() / 2].to_vec();
            keys[b].extend(own(&tokens[0]));
            values[b].extend(own(&tokens[1]));
            let (q, k, v) = (own(&tokens[2]), &keys[b], &values[b]);
            let truth = reference::<f64>(&config, &heads, [&q, k, v])?;
            let naive = reference::<f32>(&config, &heads, [&q, k, v])?;
            let got = own(&got);
            let (error, bound) = (worst(&got, &truth), allowed(&naive, &truth));
            if error.is_nan() || error > bound {
                return Err(format!("sequence {b} is off by {error:.1e}").into());
            }
            largest = if error > largest.0 { (error, bound) } else { largest };
        }
        println!(
            "step {step}, {lens:?} keys before it: error {:.1e} of {:.1e}",
            largest.0, largest.1
        );
    }
    let [shared, alone] = [6, 9].map(|pages| pages * u64::from(PAGE) * format.bytes_per_token());
    println!("{shared} bytes of pages in use; without sharing {alone}");
    Ok(())
}

/// `[H_kv, S, D]` as `[S, H_kv, D]`.
fn by_token(x: &[f32]) -> Vec<f32> {
    let seq = x.len() as u32 / (KV_HEADS * DIM);
    swapped(x, KV_HEADS, seq)
}

/// `[a, b, D]` as `[b, a, D]`.
fn swapped(x: &[f32], a: u32, b: u32) -> Vec<f32> {
    let row = |i: u32, j: u32| &x[((i * b + j) * DIM) as usize..][..DIM as usize];
    let rows = (0..b).flat_map(|j| (0..a).map(move |i| (i, j)));
    rows.flat_map(|(i, j)| row(i, j).to_vec()).collect()
}

/// The largest error.
fn worst(got: &[f32], truth: &[f64]) -> f64 {
    let errors = got.iter().zip(truth).map(|(&x, truth)| (f64::from(x) - truth).abs());
    errors.fold(0.0, |worst: f64, e| if e > worst || e.is_nan() { e } else { worst })
}

/// Twice what a naive f32 program is off by, and a rounding of the largest value.
fn allowed(naive: &[f32], truth: &[f64]) -> f64 {
    let largest = truth.iter().fold(0.0, |m: f64, t| m.max(t.abs()));
    2.0 * worst(naive, truth) + f64::from(f32::EPSILON) * largest
}

/// The newest query of one sequence against all of its keys, both components, on the CPU.
fn reference<R: Real>(config: &RopeConfig, heads: &HeadMap, qkv: [&[f32]; 3]) -> Result<Vec<R>> {
    let seq = qkv[1].len() as u32 / (KV_HEADS * DIM);
    let number = |x: &f32| R::from_f64(f64::from(*x));
    let q: Vec<R> = qkv[0].iter().map(number).collect();
    let [k, v] = [qkv[1], qkv[2]]
        .map(|x| -> Vec<R> { swapped(x, seq, KV_HEADS).iter().map(number).collect() });
    let frequencies = config.frequencies(seq.into())?;
    let rotated = |x: &[R], shape: [u32; 4], first: u32| {
        oracle::rope(x, shape, DIM, Pairing::Half, |_, s, pair| {
            let (cos, sin) = frequencies.cos_sin(first + s, pair as usize);
            (R::from_f64(cos), R::from_f64(sin))
        })
    };
    let (q_shape, k_shape) = ([1, HEADS, 1, DIM], [1, KV_HEADS, seq, DIM]);
    let attended = oracle::attention(&AttentionInputs {
        q: &rotated(&q, q_shape, seq - 1)?,
        q_shape,
        k: &rotated(&k, k_shape, 0)?,
        k_shape,
        v: &v,
        v_shape: k_shape,
        rotary_dim: DIM,
        pairing: Pairing::Half,
        heads: heads.heads(),
        softmax_scale: f64::from(DIM).powf(-0.5),
        causal: true,
        q_offset: None,
        kv_lens: None,
    })?;
    Ok(attended.out)
}
