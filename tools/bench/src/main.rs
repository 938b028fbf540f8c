//! How fast this adapter is, and how much of it the kernels use: one command, one table, one JSON
//! to post.
//!
//! `cargo run --release --bin bench -- --quick` takes under three minutes. It measures the roof of
//! the adapter first (f32 multiply-adds, copy bandwidth, cost of a dispatch), then RoPE, KV append
//! and move, prefill attention (plain, real and imaginary in two passes, both in one packed pass
//! over duplicated query heads, and both fused), the backward pass of them, decode (plain and
//! fused) and, unless it is quick, linear attention. Every kernel is checked against the f64 oracle
//! before it is timed. Software adapters prove nothing about GPUs: the name of the adapter belongs
//! to every figure.

mod append;
mod backward;
mod caches;
mod decode;
mod document;
mod linear;
mod matrices;
mod moves;
mod plot;
mod prefill;
mod ratios;
mod roof;
mod rotation;
mod scaling;
mod shared;
mod timing;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use phasor::KernelKind;
use phasor_kit::gpu::Gpu;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(about = "Speed of RoPE and RoPE++ attention on this adapter")]
struct Args {
    /// Fewer lengths and repetitions: under three minutes on two CPU cores
    #[arg(long)]
    quick: bool,
    /// Measures one part alone, besides the roof; may be given more than once
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Writes the figures as JSON; the schema is at the head of document.rs
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws roofline and scaling curves into a PNG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Rope,
    Append,
    Move,
    Prefill,
    Decode,
    Scaling,
    Linear,
    Backward,
    /// Prefill with shared buffers beside prefill without; measured where it is asked for
    Shared,
    /// Prefill over caches of every format beside prefill over f16; likewise
    Caches,
    /// Prefill on matrix units beside prefill in f32; likewise. A driver that none of this crate's
    /// matrix kernels ran on may crash over them
    Matrices,
}

/// The part that times each kernel, or why none does.
const KERNELS: [(KernelKind, std::result::Result<Part, &str>); KernelKind::ALL.len()] = [
    (KernelKind::Attention, Ok(Part::Prefill)),
    (KernelKind::AttentionBackward, Ok(Part::Backward)),
    (KernelKind::Decode, Ok(Part::Decode)),
    (KernelKind::KvAppend, Ok(Part::Append)),
    (KernelKind::KvMove, Ok(Part::Move)),
    (KernelKind::LinearAttention, Ok(Part::Linear)),
    (KernelKind::LinearAttentionBackward, Ok(Part::Linear)),
    (KernelKind::Merge, Ok(Part::Decode)), // ends in it where keys are split
    (KernelKind::Rope, Ok(Part::Rope)),
    (KernelKind::Scores, Err("for analysis: nothing waits for it")),
];

#[test]
fn every_kernel_has_a_row() {
    assert_eq!(KernelKind::not_once(KERNELS.map(|(kernel, _)| kernel)), []);
}

impl Args {
    /// What a part measures; nothing where others alone were asked for.
    fn part<T>(&self, part: Part, measure: impl FnOnce() -> Result<Vec<T>>) -> Result<Vec<T>> {
        if self.only.is_empty() || self.only.contains(&part) { measure() } else { Ok(Vec::new()) }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let gpu = Gpu::new()?;
    println!("{}, phasor {}", gpu.capabilities().adapter, env!("CARGO_PKG_VERSION"));
    let clock = timing::Clock::new(&gpu, if args.quick { 15 } else { 31 });
    let roof = roof::measure(&clock)?;
    roof.print();
    let rotations = args.part(Part::Rope, || rotation::measure(&clock, args.quick))?;
    let appends = args.part(Part::Append, || append::measure(&clock, args.quick))?;
    let moves = args.part(Part::Move, || moves::measure(&clock, args.quick))?;
    let comparisons = args.part(Part::Prefill, || ratios::measure(&clock, &roof, args.quick))?;
    let decodings = args.part(Part::Decode, || decode::measure(&clock, args.quick))?;
    let scaling = args.part(Part::Scaling, || scaling::measure(&clock, &roof, args.quick))?;
    let linear = args.part(Part::Linear, || match args.quick && args.only.is_empty() {
        // Softmax attention of 32768 tokens, which it is compared with, takes a CPU half a minute.
        true => Ok(Vec::new()),
        false => linear::measure(&clock),
    })?;
    let backwards = args.part(Part::Backward, || backward::measure(&clock, args.quick))?;
    let tiers = match args.only.contains(&Part::Matrices) {
        true => matrices::measure(&clock, args.quick)?,
        false => Vec::new(),
    };
    if args.only.contains(&Part::Shared) {
        shared::measure(&clock)?;
    }
    if args.only.contains(&Part::Caches) {
        caches::measure(&clock)?;
    }
    let again = roof::measure(&clock)?;
    if roof.differs_from(&again) {
        again.print();
        println!("WARNING: the roof moved during the run; something else used this machine\n");
    }
    let measured = document::Measured {
        rotations: &rotations,
        appends: &appends,
        moves: &moves,
        comparisons: &comparisons,
        decodings: &decodings,
        scaling: &scaling,
        linear: &linear,
        backward: &backwards,
        matrices: &tiers,
    };
    for (kernel, part) in KERNELS {
        if let Err(why) = part {
            println!("not timed: {kernel}, {why}\n");
        }
    }
    let document = document::build(&gpu, args.quick, &roof, &measured);
    document::print_summary(&document);
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&document)? + "\n")?;
    }
    if let Some(path) = &args.plot {
        plot::draw(path, &roof, &rotations, &comparisons, &scaling)?;
    }
    Ok(())
}
