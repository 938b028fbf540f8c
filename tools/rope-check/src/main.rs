//! What a model's `config.json` means for its rotary embedding, or why it is refused.
//!
//! ```sh
//! cargo run --release --bin rope-check -- config.json          # for reading
//! cargo run --release --bin rope-check -- --json config.json   # one line a file
//! ```
//!
//! For each kind of layer: the rule, base, rotated share, pairs, direction, attention scaling,
//! softmax scale, and the first and last frequency. The exit status is 1 when a file is refused.

mod report;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, ValueEnum};
use phasor::{
    Result,
    rotary::{Like, ModelRope, Pairing, Turn},
};

/// What a model's config.json means for its rotary embedding, or why it is refused.
#[derive(Parser)]
struct Args {
    /// Configurations.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// One JSON object a line for each file, with all frequencies and a rotated probe.
    #[arg(long)]
    json: bool,
    /// A model type that the models are like, instead of what they say they are.
    #[arg(long, value_name = "MODEL_TYPE")]
    like: Option<String>,
    /// Channels of each pair, where they differ from those of the model under --like.
    #[arg(long, value_enum, requires = "like")]
    pairing: Option<Pairs>,
    /// Which way the pairs turn, where it differs from the model under --like.
    #[arg(long, value_enum, requires = "like")]
    direction: Option<Way>,
    /// Context length in positions, for rules that depend on it.
    #[arg(long, default_value_t = 8)]
    length: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Pairs {
    Half,
    Interleaved,
    InterleavedToHalf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    Forward,
    Backward,
}

impl Args {
    fn read(&self, json: &str) -> Result<ModelRope> {
        let Some(model_type) = &self.like else { return ModelRope::from_json(json) };
        let like = Like {
            pairing: self.pairing.map(|pairs| match pairs {
                Pairs::Half => Pairing::Half,
                Pairs::Interleaved => Pairing::Interleaved,
                Pairs::InterleavedToHalf => Pairing::InterleavedToHalf,
            }),
            direction: self.direction.map(|way| match way {
                Way::Forward => Turn::Forward,
                Way::Backward => Turn::Backward,
            }),
            ..Like::model(model_type)
        };
        ModelRope::from_json_like(json, &like)
    }

    /// The report on a file, and whether it was accepted.
    fn check(&self, path: &Path) -> (String, bool) {
        let read = fs::read_to_string(path)
            .map_err(|error| error.to_string())
            .and_then(|json| self.read(&json).map_err(|error| error.to_string()));
        let report = match (&read, self.json) {
            (Ok(model), true) => report::json(path, model, self.length),
            (Ok(model), false) => report::text(path, model, self.length),
            (Err(refused), true) => Ok(report::refused_json(path, refused)),
            (Err(refused), false) => Ok(format!("{}: refused: {refused}\n", path.display())),
        };
        match report {
            Ok(report) => (report, read.is_ok()),
            Err(error) if self.json => (report::refused_json(path, &error.to_string()), false),
            Err(error) => (format!("{}: refused: {error}\n", path.display()), false),
        }
    }
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    let mut all = true;
    let mut out = io::stdout().lock();
    for path in &args.files {
        let (report, accepted) = args.check(path);
        all &= accepted;
        out.write_all(report.as_bytes())?;
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
