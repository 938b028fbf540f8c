//! Replays reference files: runs every case that they hold and compares with what they state.
//!
//! ```text
//! cargo run --release --bin replay -- PATH...
//! ```
//!
//! Every case runs on the f64 oracle and on the GPU: by the kernel that suits it, and where queries
//! stand at the end of their keys also as a server runs it, through KV append and decode over a
//! contiguous and a paged cache. Whole models run with their matrix products on the host. With
//! `--through PROGRAM`, `tools/tint/run.mjs` for one, the kernels run on the device of another
//! program. Each PATH is a safetensors file, or a folder that is searched for them. One line is
//! printed a case, with the error that comes closest to its bound, and the bound, for every way it
//! was computed. Exit status 1 if any case failed; a file that cannot be read is one of those.
//!
//! With `--precision f16` or `f16x3` it replays attention on matrix units alone, held to the files'
//! bounds and twice the error of the oracle that rounds where such a kernel does; whole models too
//! with `f16x3`, whose logits keep to the files' own bounds. It uses matrix units although no
//! self-test has passed, since it is one.
//!
//! Files run side by side on `--jobs` devices, and the lines of a file come together.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    thread,
};

use clap::Parser;
use phasor_kit::{
    cases::{self, Case},
    gpu::{Gpu, Precision, precision},
    replay,
    runner::{Device, Oracle, Remote, Runner},
};

#[derive(Parser)]
#[command(about = "Runs the cases of reference files and compares with what they state.")]
struct Arguments {
    /// Safetensors files, or folders that are searched for them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Leave the GPU out.
    #[arg(long)]
    oracle_only: bool,
    /// A program that runs the GPU's part, with its arguments: `--through "node
    /// tools/tint/run.mjs"`.
    #[arg(long, conflicts_with = "oracle_only")]
    through: Option<String>,
    /// How attention over whole sequences computes products: f32, or on matrix units f16 or f16x3.
    #[arg(long, value_parser = precision, default_value = "f32", conflicts_with = "oracle_only")]
    precision: Precision,
    /// Devices that files run on side by side; without it two of a software adapter, which
    /// compiles the shaders of each on one core, and one of any other.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
}

/// What became of the cases, and the lines that say so.
#[derive(Default)]
struct Tally {
    precision: Precision,
    passed: u32,
    failed: u32,
    not_covered: u32,
    lines: String,
}

impl Tally {
    fn fail(&mut self, name: &str, why: &str) {
        self.failed += 1;
        self.line(format_args!("FAIL  {name}: {why}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.lines, "{line}").expect("a string takes all");
    }

    fn print(&mut self) {
        print!("{}", std::mem::take(&mut self.lines));
    }

    fn add(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.not_covered += other.not_covered;
    }

    fn file(&mut self, path: &Path, runners: &[Box<dyn Runner + '_>]) {
        let cases = match cases::load(path) {
            Ok(cases) => cases,
            Err(error) => return self.fail(&path.display().to_string(), &error.to_string()),
        };
        for case in &cases.cases {
            self.case(case, runners);
        }
        for case in &cases.not_covered {
            self.not_covered += 1;
            self.line(format_args!("-     {}: not covered: {}", case.name, case.reason));
        }
    }

    /// A case passes when every implementation does.
    fn case(&mut self, case: &Case, runners: &[Box<dyn Runner + '_>]) {
        let x3 = self.precision == Precision::F16x3Products;
        let other = match case {
            Case::Attention(_) => false,
            Case::Model(_) => !x3,
            _ => true,
        };
        if self.precision.on_matrices() && other {
            return;
        }
        if let Case::Attention(case) = case
            && let Some(error) = runners.iter().find_map(|runner| runner.refusal(case))
        {
            self.not_covered += 1;
            return self.line(format_args!("-     {}: not covered: {error}", case.name));
        }
        let mut line = String::new();
        let runners = if case.on_host() { &runners[..1] } else { runners };
        for runner in runners {
            let name = runner.name();
            match replay::run(case, runner.as_ref()) {
                Ok(ways) => {
                    for (way, stats) in ways {
                        line += &format!("  {way} {:.1e} of {:.1e}", stats.error, stats.bound);
                    }
                }
                Err(error) => return self.fail(case.name(), &format!("{name}: {error}")),
            }
        }
        self.passed += 1;
        self.line(format_args!("ok    {}:{line}", case.name()));
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let gpu = match (!arguments.oracle_only).then(Gpu::new).transpose() {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(gpu) = &gpu {
        println!("gpu: {} ({:?}, {})", gpu.info.name, gpu.info.backend, gpu.info.driver_info);
    }
    let mut tally = Tally::default();
    let mut all = Vec::new();
    for path in &arguments.paths {
        match files(path) {
            Ok(files) if files.is_empty() => {
                tally.fail(&path.display().to_string(), "no safetensors file in this folder");
            }
            Ok(files) => all.extend(files),
            Err(error) => tally.fail(&path.display().to_string(), &error.to_string()),
        }
    }
    tally.print();
    let software = gpu.as_ref().is_some_and(|gpu| gpu.capabilities().software);
    let jobs = arguments.jobs.unwrap_or(if software { 2 } else { 1 });
    let queue = Mutex::new(all.into_iter());
    let next = || queue.lock().expect("no job panics with it").next();
    let tallies = thread::scope(|scope| {
        let jobs: Vec<_> = (0..jobs)
            .map(|job| {
                // The first one has the device that is there.
                let gpu = gpu.as_ref().filter(|_| job == 0);
                let arguments = &arguments;
                scope.spawn(move || replay_all(arguments, gpu, next))
            })
            .collect();
        jobs.into_iter().map(|job| job.join().expect("a job panicked")).collect::<Vec<_>>()
    });
    for job in tallies {
        match job {
            Ok(job) => tally.add(&job),
            Err(error) => tally.fail("a device", &error.to_string()),
        }
    }
    tally.print();
    let Tally { passed, failed, not_covered, .. } = tally;
    println!("replay: {passed} passed, {failed} failed, {not_covered} not covered");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs files as long as there are some, on this device or on one of its own.
fn replay_all(
    arguments: &Arguments,
    gpu: Option<&Gpu>,
    next: impl Fn() -> Option<PathBuf>,
) -> Result<Tally, String> {
    let own;
    let mut runners: Vec<Box<dyn Runner + '_>> = vec![Box::new(Oracle::<f64>::new())];
    let gpu = match gpu {
        Some(gpu) => Some(gpu),
        None if arguments.oracle_only => None,
        None => {
            own = Gpu::new()?;
            Some(&own)
        }
    };
    if let Some(gpu) = gpu {
        let through = arguments.through.as_deref().map(remote).transpose();
        let device = match through.map_err(|error| error.to_string())? {
            None => Device::new(gpu),
            Some(remote) => Device::through(gpu, remote),
        };
        runners.push(Box::new(device.with_precision(arguments.precision)));
    }
    let mut tally = Tally { precision: arguments.precision, ..Tally::default() };
    while let Some(path) = next() {
        tally.file(&path, &runners);
        tally.print();
    }
    Ok(tally)
}

fn remote(command: &str) -> cases::Result<Remote> {
    let mut words = command.split_whitespace().map(str::to_owned);
    let program = words.next().ok_or("--through needs a program")?;
    Remote::start(&program, &words.collect::<Vec<_>>())
}

/// The path itself, or the safetensors files below a folder, in the order of their names.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries =
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            found.extend(files(&entry)?);
        } else if entry.extension().is_some_and(|extension| extension == "safetensors") {
            found.push(entry);
        }
    }
    Ok(found)
}
