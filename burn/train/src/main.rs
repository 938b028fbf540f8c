//! Small language models with RoPE and RoPE++, trained on Burn.

/// Prints a line; an error where nobody reads on, which `println!` panics of.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($text)*)
    }};
}

mod backend;
mod check;
mod checkpoint;
mod config;
mod corpus;
mod curve;
mod evaluate;
mod export;
mod file;
mod generate;
mod guard;
mod memory;
mod model;
mod optimizer;
mod run;
mod settings;
mod weights;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use backend::Backend;
use config::ModelConfig;
use corpus::Corpus;
use run::{Often, Run};
use settings::Settings;

type Result<T, E = Box<dyn std::error::Error>> = core::result::Result<T, E>;

/// Trains small language models with RoPE and RoPE++.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, args_override_self = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Recorded training runs to follow, step by step, instead of training.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    check: Vec<PathBuf>,
    /// What computes; a GPU where there is one, else the CPU.
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    #[command(flatten)]
    settings: Settings,
    /// Folder of the run, from which it goes on if it was stopped [default: runs/MODE-SEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
    /// First steps in which the CPU is held to phasor's kernels, where the only adapter is a
    /// software one; 0 for none.
    #[arg(long, default_value_t = 20)]
    hold: usize,
}

#[derive(Debug, Subcommand)]
enum Command {
    Evaluate(evaluate::Arguments),
    Generate(generate::Arguments),
    Export(export::Export),
    Projections(export::Projections),
}

fn check(args: &Args) -> Result<bool> {
    let started = args.backend.unwrap_or(Backend::Gpu).start()?;
    say!("{}", started.name)?;
    let device = started.device.autodiff();
    let (mut passed, mut failed) = (0, 0);
    for path in &args.check {
        match check::check(path, started.implementation, &device) {
            Ok(summary) => {
                say!("ok      {}: {summary}", path.display())?;
                passed += 1;
            }
            Err(error) => {
                say!("FAILED  {}: {error}", path.display())?;
                failed += 1;
            }
        }
    }
    say!("check: {passed} passed, {failed} failed")?;
    Ok(failed == 0)
}

fn train(args: &Args) -> Result<()> {
    let settings = &args.settings;
    let corpus = match &settings.text {
        Some(path) => Corpus::read(path)?,
        None => Corpus::built_in()?,
    };
    let config = ModelConfig::new(settings.mode, &settings.chosen(), corpus.symbols.clone())?;
    let default = || format!("runs/{}-{}", settings.mode.name(), settings.seed).into();
    let out = args.out.clone().unwrap_or_else(default);
    let (started, beside) = backend::choose(args.backend)?;
    say!("{}", started.name)?;
    let mut run = Run::new(settings, &corpus, &config, &started)?;
    let fresh = checkpoint::all(&out)?.is_empty();
    if let Some(kernels) = beside.filter(|_| fresh && args.hold > 0) {
        run::hold(settings, &corpus, &config, [&started, &kernels], args.hold)?;
    }
    say!(
        "{}: {} parameters, {} bytes of cache a token; {}: {} characters to train on, {} held out; \
         about {:.0} MB of memory",
        settings.mode.name(),
        run.model.parameters(),
        config.cache_bytes(),
        corpus.name,
        corpus.train.len(),
        corpus.held_out.len(),
        run.need.megabytes()
    )?;
    let often = Often { checkpoint: usize::try_from(args.checkpoint_every)? };
    let record = run::train(run, &started, &out, often)?;
    say!("loss of training {}", curve::text(&record.loss))?;
    let (_, held_out) = record.held_out.last().copied().unwrap_or((0, f64::NAN));
    say!(
        "held-out loss {held_out:.3} (perplexity {:.2}), a bigram model's {:.3}; {:.0} s; {}",
        held_out.exp(),
        record.bigram_loss,
        record.seconds,
        out.display()
    )?;
    Ok(())
}

fn run() -> Result<bool> {
    let args = Args::parse();
    match &args.command {
        Some(Command::Evaluate(arguments)) => evaluate::evaluate(arguments)?,
        Some(Command::Generate(arguments)) => generate::generate(arguments)?,
        Some(Command::Export(arguments)) => export::export(arguments)?,
        Some(Command::Projections(arguments)) => export::projections(arguments)?,
        None if !args.check.is_empty() => return check(&args),
        None => train(&args)?,
    }
    Ok(true)
}

fn broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn main() -> ExitCode {
    match guard::guarded(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // `| head` has read what it wanted.
        Err(error) if broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train: {error}");
            ExitCode::FAILURE
        }
    }
}
