//! Pictures that explain RoPE++: what real and imaginary attention of a layer look at.
//!
//! ```text
//! cargo run --release --bin analyze -- --input FILE --out DIR
//! ```
//!
//! FILE is any safetensors file with un-rotated q, k and v, each `[1, H, S, D]`. The GPU rotates
//! them, attends with both components in one pass, and computes weights and statistics of rows; PNG
//! and SVG files and one HTML report that needs nothing else go into DIR.

mod bars;
mod device;
mod gallery;
mod html;
#[path = "../../../examples/ropepp/layer.rs"]
mod layer;
mod layer_report;
mod noise;
mod pictures;
mod progress;
mod rotated;
mod rules;
#[path = "../../../examples/ropepp/statistics.rs"]
mod statistics;
mod theory;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use phasor_kit::gpu::Gpu;

use gallery::Gallery;
use layer::Layer;
use rules::Rule;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The command line.
#[derive(Parser)]
#[command(about = "Pictures of real and imaginary attention, and of the curves behind them")]
pub struct Args {
    /// Safetensors file with un-rotated q, k and v, each [1, H, S, D], or a folder of them; may be
    /// given again
    #[arg(long, value_name = "FILE", default_value = concat!(
        env!("CARGO_MANIFEST_DIR"), "/../../tests/data/real"))]
    input: Vec<PathBuf>,
    /// Folder for the pictures and report.html
    #[arg(long, value_name = "DIR", default_value = "target/analyze")]
    out: PathBuf,
    /// Only the characteristic curves of heads of D channels, without a layer and a GPU
    #[arg(long, value_name = "D")]
    curves_of: Option<u32>,
    /// Query heads to draw [default: the one whose two components differ most in how far back they
    /// look]
    #[arg(long, visible_alias = "head", value_name = "N", value_delimiter = ',')]
    heads: Vec<u32>,
    /// Base of the rotary frequencies [default: what the file says; 10000 without a file]
    #[arg(long)]
    theta: Option<f64>,
    /// How the frequencies follow from the base, for the layers and the first picture of curves
    #[arg(long, value_enum, default_value_t = Rule::Default)]
    rope: Rule,
    /// s: how many times the context is stretched
    #[arg(long, default_value_t = 8.0)]
    factor: f64,
    /// L: context length before it is stretched
    #[arg(long, default_value_t = 4096)]
    original: u64,
    /// LongRoPE's D/2 divisors above L
    #[arg(long, value_name = "X", value_delimiter = ',')]
    long_factors: Vec<f64>,
    /// Farthest distance of the curves, in tokens
    #[arg(long, default_value_t = 1 << 17)]
    reach: u32,
    /// Distance up to which weight counts as near, in tokens
    #[arg(long, default_value_t = 16)]
    near: u32,
    /// Tokens of every file at most, from its first
    #[arg(long, default_value_t = 2048)]
    tokens: u32,
    /// Draws of the noise
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    draws: u32,
    /// Seed of the noise
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only PNG files: no SVG, no report
    #[arg(long)]
    png_only: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("analyze: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    pictures::load_font()?;
    let mut layers = Vec::new();
    let mut adapter = "the CPU".to_owned();
    // Rotations that have been drawn: most layers of a model share one.
    let mut rotations = Vec::new();
    if let Some(dim) = args.curves_of {
        rotations.push((dim, args.theta.unwrap_or(1e4)));
    } else {
        let gpu = Gpu::new()?;
        adapter = gpu.capabilities().adapter;
        println!("adapter   {adapter}");
        let files = files(&args.input)?;
        for file in &files {
            let layer = read(file, args)?;
            println!("input     {}", layer.title);
            let rotation = (layer.head_dim(), layer.theta);
            if !rotations.contains(&rotation) {
                rotations.push(rotation);
            }
            let folder = match files.len() {
                1 => args.out.clone(),
                _ => args.out.join(file.file_stem().unwrap_or_default()),
            };
            let report = layer_report::of(&gpu, &layer, args, &folder)?;
            println!("          {}", report.about);
            println!(
                "          row statistics of the kernel against those of its weights: {:.1e} apart at most",
                report.disagreement
            );
            layers.push(report);
        }
    }

    let mut theory = Gallery::new(&args.out, args.png_only)?;
    for &(dim, theta) in &rotations {
        let name = |kind: &str| match rotations.len() {
            1 => kind.to_owned(),
            _ => format!("{kind}_d{dim}_base{theta}"),
        };
        theory.draw(
            name("characteristic"),
            &theory::characteristic_picture(args, dim, theta)?,
            "Solid or dashed: the sum over the pairs of one head, which oscillates for ever. Dotted: its limit \
             for large heads. c_Im starts at 0 and stays near π/(2 ln b) up to distances of the size of the \
             base b, where c_Re has long fallen. The bound falls, though not steadily.",
        )?;
        theory.draw(
            name("rules"),
            &theory::rules_picture(args, dim, theta)?,
            "Linear interpolation slows every pair down, so both curves are those of plain RoPE moved to s-fold \
             distances, near ones included. NTK-aware scaling, YaRN and LongRoPE leave the fast pairs alone.",
        )?;
    }
    if !args.png_only {
        let path = args.out.join("report.html");
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let report = html::Report {
            adapter,
            command: format!("cargo run --release --bin analyze -- {command}"),
            theory: &theory.figures,
            layers: &layers,
        };
        report.write(&path)?;
        println!("report    {}", path.display());
    }
    Ok(())
}

/// A layer as the arguments want it.
fn read(file: &Path, args: &Args) -> Result<Layer> {
    let mut layer = Layer::read(file, args.theta)?;
    truncate(&mut layer, args.tokens)?;
    layer.rule = args.rope.of(args, layer.head_dim());
    if let Some(head) = args.heads.iter().find(|&&head| head >= layer.q_heads()) {
        return Err(format!("there is no head {head}: the layer has {}", layer.q_heads()).into());
    }
    Ok(layer)
}

/// Leaves the first `tokens` positions at most.
fn truncate(layer: &mut Layer, tokens: u32) -> Result<()> {
    if tokens < 2 {
        return Err(format!("two tokens or more are needed, not {tokens}").into());
    }
    for (tensor, shape) in [
        (&mut layer.q, &mut layer.q_shape),
        (&mut layer.k, &mut layer.k_shape),
        (&mut layer.v, &mut layer.v_shape),
    ] {
        let [_, _, seq, dim] = shape.map(|n| n as usize);
        let kept = seq.min(tokens as usize);
        let heads = tensor.chunks(seq * dim).flat_map(|head| &head[..kept * dim]);
        *tensor = heads.copied().collect();
        shape[2] = kept as u32;
    }
    Ok(())
}

/// The files given, and those of the folders given.
fn files(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            files.push(input.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(input)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                found.push(path);
            }
        }
        if found.is_empty() {
            return Err(format!("{}: no safetensors file in this folder", input.display()).into());
        }
        found.sort_by_key(|path| natural(path));
        files.extend(found);
    }
    Ok(files)
}

/// Orders layer2 before layer10: by length of the name, then by name.
fn natural(path: &Path) -> (usize, PathBuf) {
    (path.as_os_str().len(), path.to_owned())
}
