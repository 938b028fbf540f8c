//! Finds the fastest tile of attention on this adapter for prefill of the given sizes, the tiles of
//! its backward pass, or tile and splits of decode, and prints the ranking beside what the crate
//! would take by itself.
//!
//! ```sh
//! cargo run --release --bin tune -- --dim 128 --seconds 20
//! cargo run --release --bin tune -- --precision f16      # on matrix units
//! cargo run --release --bin tune -- --decode --dim 128 --heads 32 --seq 16384 --cache f32,f16,int8
//! ```

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use phasor::attention::{AttentionProblem, AttentionShape, Tile};
use phasor::attention_backward::{self as backward, AttentionBackwardProblem};
use phasor::cache::{CacheFormat, CacheType};
use phasor::decode::{self, DecodeProblem, DecodeShape};
use phasor::{DType, HeadMap, Precision, tuner};
use phasor_kit::gpu::{Gpu, precision};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
struct Args {
    /// Channels of a head; several: one after another
    #[arg(long, value_delimiter = ',', default_value = "64")]
    dim: Vec<u32>,
    /// Query heads
    #[arg(long, default_value_t = 8)]
    heads: u32,
    /// Heads of k and v
    #[arg(long, default_value_t = 8)]
    kv_heads: u32,
    /// Queries and keys; of decode, keys
    #[arg(long, default_value_t = 1024)]
    seq: u32,
    /// Storage of k, v, q and out is f16
    #[arg(long)]
    f16: bool,
    /// How products are computed: f32, or on matrix units f16 or f16x3
    #[arg(long, value_parser = precision, default_value = "f32")]
    precision: Precision,
    /// Use matrix units although none of this crate's kernels ran on the driver's, which may crash
    #[arg(long)]
    insist: bool,
    /// Tiles of the backward pass
    #[arg(long)]
    backward: bool,
    /// Tile and splits of decode of one token
    #[arg(long, conflicts_with = "backward")]
    decode: bool,
    /// Storage of the cache that decode reads: f32, f16, int8 or q4; several: one after another
    #[arg(long, value_delimiter = ',', value_parser = cache_type, default_value = "f32")]
    cache: Vec<CacheType>,
    /// Time for each problem
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Lines of the ranking
    #[arg(long, default_value_t = 12)]
    show: usize,
}

fn cache_type(name: &str) -> std::result::Result<CacheType, String> {
    let all = [CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];
    let known = all.into_iter().find(|stored| stored.to_string() == name);
    known.ok_or_else(|| "f32, f16, int8 or q4".into())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tune: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let gpu = Gpu::new()?;
    println!("{}, phasor {}", gpu.capabilities().adapter, env!("CARGO_PKG_VERSION"));
    for &dim in &args.dim {
        for (name, heads) in
            [("plain", HeadMap::plain(args.heads)?), ("fused", HeadMap::ropepp(args.heads)?)]
        {
            if args.decode {
                for &stored in &args.cache {
                    decode(&gpu, args, (name, heads.clone()), dim, stored)?;
                }
                continue;
            }
            let mut problem = AttentionProblem::new(heads, args.kv_heads, dim);
            if args.f16 {
                (problem.q_dtype, problem.kv_dtype, problem.out_dtype) =
                    (DType::F16, DType::F16, DType::F16);
            }
            problem.precision = args.precision;
            one(&gpu, args, name, &problem)?;
        }
    }
    Ok(())
}

fn one(gpu: &Gpu, args: &Args, name: &str, problem: &AttentionProblem) -> Result<()> {
    let shape = AttentionShape::new(1, args.seq, args.seq);
    let budget = Duration::try_from_secs_f64(args.seconds)?;
    let name = format!("{name}, D {}, S {}", problem.head_dim, args.seq);
    let (device, queue) = (&gpu.device, &gpu.queue);
    if args.backward {
        let problem = AttentionBackwardProblem::new(problem.clone());
        let tuning = tuner::attention_backward(device, queue, &problem, &shape, budget)?;
        let flops = problem.plan(&gpu.capabilities())?.cost(&shape).flops;
        let both = |[dq, dk_dv]: [backward::Tile; 2]| format!("dq {dq}; dk, dv {dk_dv}");
        ranking(args, &format!("{name}, backward"), &tuning, flops, both);
    } else {
        let caps = gpu.tested(problem.precision, args.insist);
        problem.plan(&caps)?;
        // The self-test has passed, so that tiles which it did not probe may be tried.
        let caps = caps.insist_on_matrices();
        let tuning = tuner::attention_with(device, queue, &caps, problem, &shape, budget)?;
        let flops = problem.plan(&caps)?.cost(&shape).flops;
        ranking(args, &name, &tuning, flops, |tile: Tile| tile.to_string());
    }
    Ok(())
}

fn decode(
    gpu: &Gpu,
    args: &Args,
    (name, heads): (&str, HeadMap),
    dim: u32,
    stored: CacheType,
) -> Result<()> {
    let cache = CacheFormat { k: stored, v: stored, ..CacheFormat::new(args.kv_heads, dim) };
    let problem = DecodeProblem::new(heads, cache, 1, args.seq);
    let shape = DecodeShape::new(1, 1);
    let budget = Duration::try_from_secs_f64(args.seconds)?;
    let tuning = tuner::decode(&gpu.device, &gpu.queue, &problem, &shape, budget)?;
    let name = format!("{name}, decode, D {dim}, {} keys of {stored}", args.seq);
    let flops = problem.plan(&gpu.capabilities())?.cost(&shape).flops;
    ranking(args, &name, &tuning, flops, |(tile, splits): (decode::Tile, u32)| {
        format!("{tile}; {splits} splits")
    });
    Ok(())
}

fn ranking<T: tuner::Tiles + PartialEq>(
    args: &Args,
    name: &str,
    tuning: &tuner::Tuning<T>,
    flops: u64,
    described: impl Fn(T) -> String,
) {
    println!(
        "\n{name}: {} of {} tiles timed, {} wrong",
        tuning.trials.len(),
        tuning.candidates,
        tuning.wrong.len(),
    );
    let mut trials = tuning.trials.clone();
    trials.sort_by(|a, b| a.1.total_cmp(&b.1));
    let default = &tuning.trials[0];
    let place = trials.iter().position(|trial| trial == default).unwrap_or(0) + 1;
    println!("  default, place {place}:");
    for &(tile, ms) in std::iter::once(default).chain(trials.iter().take(args.show)) {
        println!("  {ms:9.3} ms {:9.1} GFLOP/s  {}", flops as f64 / ms * 1e-6, described(tile));
    }
    println!("{}", tuning.choice);
}
