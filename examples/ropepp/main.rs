//! RoPE and RoPE++ attention of a real language model's layer: rotate, attend, check, look.
//!
//! `cargo run --release --example ropepp` rotates the queries and keys of a layer of SmolLM2 on the
//! GPU, runs plain RoPE attention and RoPE++ attention (real and imaginary in one pass), compares
//! all of it with the f64 oracle, and draws the attention maps of one head and the curve of
//! attention against distance.

mod gallery;
mod gpu;
#[path = "../../tools/analyze/src/layer.rs"]
mod layer;
#[path = "../../tools/analyze/src/pictures/mod.rs"]
#[expect(dead_code, reason = "`analyze` draws more")]
mod pictures;
#[path = "../../tools/analyze/src/progress.rs"]
mod progress;
mod reference;
mod report;
#[path = "../../tools/analyze/src/rotated.rs"]
mod rotated;
#[path = "../../tools/analyze/src/statistics.rs"]
mod statistics;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Parser;

use layer::Layer;
use reference::Reference;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(about = "RoPE and RoPE++ attention on real queries, keys and values")]
struct Args {
    /// Safetensors file with un-rotated q, k and v, each [1, H, S, D]
    #[arg(long, value_name = "FILE", default_value = concat!(
        env!("CARGO_MANIFEST_DIR"), "/tests/data/real/real_layer10.safetensors"))]
    input: PathBuf,
    /// Folder for the pictures
    #[arg(long, value_name = "DIR", default_value = "target/ropepp")]
    out: PathBuf,
    /// Query heads to draw [default: the one whose two components differ most in how far back they
    /// look]
    #[arg(long, visible_alias = "head", value_name = "N", value_delimiter = ',')]
    heads: Vec<u32>,
    /// Base of the rotary frequencies [default: what the file says]
    #[arg(long)]
    theta: Option<f64>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ropepp: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every result of the GPU was within its bound.
fn run(args: &Args) -> Result<bool> {
    let layer = Layer::read(&args.input, args.theta)?;
    if let Some(head) = args.heads.iter().find(|&&head| head >= layer.q_heads()) {
        return Err(format!("there is no head {head}: the layer has {}", layer.q_heads()).into());
    }
    report::input(&layer);

    let truth = Reference::<f64>::new(&layer)?;
    let gpu = gpu::run(&layer)?;
    report::gpu(&gpu);
    let naive = Reference::<f32>::new(&layer)?;
    let passed = report::check(&gpu, &layer, &truth, &naive)?;

    fs::create_dir_all(&args.out)?;
    gallery::draw(&layer, &truth, &args.heads, &args.out)?;
    Ok(passed)
}
