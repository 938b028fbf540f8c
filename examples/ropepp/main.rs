//! RoPE and RoPE++ attention of a real language model's layer: rotate, attend, check, look.
//!
//! `cargo run --release --example ropepp` rotates the queries and keys of a layer of SmolLM2 on the
//! GPU, runs plain RoPE attention and RoPE++ attention (real and imaginary in one pass), compares
//! all of it with the f64 oracle, and draws the attention maps of one head and the curve of
//! attention against distance.

mod device;
mod distance;
mod gallery;
mod gpu;
mod layer;
mod maps;
mod picture;
mod reference;
mod report;
mod statistics;

use std::{fs, path::PathBuf, process::ExitCode};

use lexopt::ValueExt as _;

use layer::Layer;
use reference::Reference;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
RoPE and RoPE++ attention on real queries, keys and values

Usage: ropepp [OPTIONS]

Options:
  --input FILE    Safetensors file with un-rotated q, k and v, each [1, H, S, D]
                  [default: a layer of SmolLM2]
  --out DIR       Folder for the pictures [default: target/ropepp]
  --heads N,...   Query heads to draw [default: the one whose two components differ most in
                  how far back they look]
  --theta X       Base of the rotary frequencies [default: what the file says]
  -h, --help      Print this";

struct Args {
    input: PathBuf,
    out: PathBuf,
    heads: Vec<u32>,
    theta: Option<f64>,
}

impl Args {
    /// `None` where only the help was asked for.
    fn parse() -> Result<Option<Self>> {
        let data =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/real/real_layer10.safetensors");
        let mut args = Self {
            input: data.into(),
            out: "target/ropepp".into(),
            heads: Vec::new(),
            theta: None,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                lexopt::Arg::Long("input") => args.input = parser.value()?.into(),
                lexopt::Arg::Long("out") => args.out = parser.value()?.into(),
                lexopt::Arg::Long("heads" | "head") => {
                    let list = parser.value()?.string()?;
                    args.heads.extend(
                        list.split(',')
                            .map(str::parse)
                            .collect::<std::result::Result<Vec<u32>, _>>()?,
                    );
                }
                lexopt::Arg::Long("theta") => args.theta = Some(parser.value()?.parse()?),
                lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(None),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(Some(args))
    }
}

fn main() -> ExitCode {
    let passed = match Args::parse() {
        Ok(Some(args)) => run(&args),
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => Err(error),
    };
    match passed {
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
