//! What the compilers of real GPUs make of phasor's kernels, on a machine without a GPU: registers,
//! spills, occupancy, and the share of multiply-adds in the hot loops. Compiler evidence, not
//! timings.
//!
//! `setup.sh` beside this crate fetches the compilers once. The rule for the share is in `isa.rs`.

mod compile;
mod gpus;
mod isa;
mod probe;
mod report;
mod spirv;
mod statistics;
mod variants;
mod vulkan;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use phasor::Sharing;
use phasor::attention::{BlockedTile, Tile};

use gpus::{GPUS, Gpu};
use probe::{MARK, Message, Record};
use variants::Selection;

/// Compiles phasor's kernels with the compilers of real GPUs.
#[derive(Debug, Parser)]
struct Options {
    /// Only these GPUs.
    #[arg(long, value_delimiter = ',')]
    gpus: Vec<String>,
    /// Which variants.
    #[arg(long, value_enum, default_value_t = Selection::All)]
    select: Selection,
    /// Only variants with this in their name.
    #[arg(long, default_value = "")]
    named: String,
    /// Writes everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Compares with a file that `--json` wrote, and fails where something became worse.
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Keeps WGSL and disassembly of every variant in this folder.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// A tile in place of the plans' own: tx,ty,row_pairs,key_quads,chunk_units,q_resident (0 or
    /// 1),v_quads,pv_apart (0 or 1).
    #[arg(long, value_parser = tile)]
    tile: Option<Tile>,
    /// How tensors may lie in buffers: `apart`, or `ranges` of one, every storage binding writable.
    #[arg(long, value_parser = sharing, default_value = "apart")]
    sharing: Sharing,
    /// Leaves wgpu's checks of indices, buffers and loops out, as peers' kernels have none.
    #[arg(long)]
    unchecked: bool,
    /// Only compiles the shaders of this file, one JSON object of `Shader::to_json` a line, and
    /// prints one verdict a line.
    #[arg(long)]
    compile: Option<PathBuf>,
    /// Runs as the process of one GPU, with its driver.
    #[arg(long, hide = true)]
    probe: Option<String>,
}

fn tile(text: &str) -> Result<Tile> {
    let numbers: Vec<u32> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let [tx, ty, row_pairs, key_quads, chunk_units, q_resident, v_quads, pv_apart] = numbers[..]
    else {
        bail!("a tile is eight numbers");
    };
    Ok(Tile::Blocked(BlockedTile {
        tx,
        ty,
        row_pairs,
        key_quads,
        chunk_units,
        q_resident: q_resident != 0,
        v_quads,
        pv_apart: pv_apart != 0,
    }))
}

fn sharing(text: &str) -> Result<Sharing> {
    match text {
        "apart" => Ok(Sharing::Apart),
        "ranges" => Ok(Sharing::Ranges),
        _ => bail!("apart or ranges"),
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(name) = &options.probe {
        let gpu = Gpu::named(name)?;
        match &options.compile {
            Some(file) => compile::probe(&gpu, file)?,
            None => {
                let Options { select, tile, sharing, named, unchecked, .. } = &options;
                probe::probe(&gpu, (*select, named.as_str()), *tile, *sharing, *unchecked)?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let gpus = match options.gpus.is_empty() {
        true => GPUS.to_vec(),
        false => options.gpus.iter().map(|name| Gpu::named(name)).collect::<Result<_>>()?,
    };
    let root = gpus::root()?;
    if let Some(file) = &options.compile {
        for gpu in &gpus {
            compile::run(gpu, &root, file)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let records = in_parallel(&gpus, |gpu| run(gpu, &root, &options))
        .into_iter()
        .collect::<Result<Vec<_>>>()?
        .concat();
    report::table(&records);
    if let Some(path) = &options.json {
        report::write(path, &records)?;
    }
    let worse = match &options.baseline {
        Some(path) => report::compare(&records, path)?,
        None => 0,
    };
    println!("{}", report::last_line(&records));
    Ok(if worse == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One process of this program for each GPU, as many at a time as there are cores.
fn in_parallel<R: Send>(gpus: &[Gpu], work: impl Fn(&Gpu) -> R + Sync) -> Vec<R> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(gpus.len());
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let worker = || {
            let claim = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < gpus.len());
            std::iter::from_fn(claim).map(|i| (i, work(&gpus[i]))).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| match worker.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

/// All that a probe prints. Adreno's compiler writes its disassembly to standard error: both
/// streams into one.
fn read_probe(mut command: Command) -> Result<(String, ExitStatus)> {
    let (reader, writer) = std::io::pipe()?;
    command.stderr(writer.try_clone()?).stdout(writer);
    let mut child = command.spawn().context("starting a probe")?;
    drop(command);
    let output = std::io::read_to_string(reader)?;
    Ok((output, child.wait()?))
}

fn run(gpu: &Gpu, root: &Path, options: &Options) -> Result<Vec<Record>> {
    let program = std::env::current_exe()?;
    let mut command = gpu.command(root, &program)?;
    command.args(["--probe", gpu.name]);
    for (name, value) in std::env::args().skip(1).zip(std::env::args().skip(2)) {
        if ["--tile", "--select", "--sharing", "--named"].contains(&name.as_str()) {
            command.args([name, value]);
        }
    }
    if options.unchecked {
        command.arg("--unchecked");
    }
    command.stdin(Stdio::null());
    let (output, status) = read_probe(command)?;
    let mut records = Vec::new();
    let mut said = String::new();
    for line in output.lines() {
        let Some(json) = line.strip_prefix(MARK) else {
            said.push_str(line);
            said.push('\n');
            continue;
        };
        let message: Message = serde_json::from_str(json)?;
        let mut record = message.record;
        let disassembly = if message.disassembly.is_empty() { &said } else { &message.disassembly };
        if let Some(statistics) = &mut record.statistics
            && let isa::Parts::QkAndPv = message.parts
        {
            let shares = isa::qk_and_pv(gpu.vendor, disassembly);
            statistics.qk = shares.map(|(qk, _)| qk);
            statistics.pv = shares.map(|(_, pv)| pv);
            statistics.matrix = isa::matrices(gpu.vendor, disassembly);
        }
        if let Some(folder) = &options.keep {
            let name = format!("{}-{}", gpu.name, record.variant.replace([' ', ','], "_"));
            std::fs::create_dir_all(folder)?;
            std::fs::write(folder.join(format!("{name}.wgsl")), &message.wgsl)?;
            std::fs::write(folder.join(format!("{name}.txt")), disassembly)?;
        }
        said.clear();
        records.push(record);
    }
    if !status.success() {
        let tail: Vec<&str> = said.lines().rev().take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{}: the probe ended with {status}:\n{}", gpu.name, tail.join("\n"));
    }
    eprintln!("{}: {} variants", gpu.name, records.len());
    Ok(records)
}
