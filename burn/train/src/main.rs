//! Small language models with RoPE and RoPE++, trained on Burn.

mod check;
mod file;
mod model;

use std::path::PathBuf;
use std::process::ExitCode;

use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use phasor_burn::Implementation;

type Result<T, E = Box<dyn std::error::Error>> = core::result::Result<T, E>;

/// Trains small language models with RoPE and RoPE++.
#[derive(Debug, Parser)]
struct Args {
    /// Recorded training runs to follow, step by step.
    #[arg(long, num_args = 1.., value_name = "FILE", required = true)]
    check: Vec<PathBuf>,
    /// What computes: phasor's kernels on Burn's wgpu device, or the formula on Burn's CPU backend.
    #[arg(long, value_enum, default_value_t = Backend::Gpu)]
    backend: Backend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    Gpu,
    Cpu,
}

impl Backend {
    fn start(self) -> Result<(Device, Implementation)> {
        Ok(match self {
            Self::Gpu => {
                let (device, setup) = phasor_burn::init(Device::wgpu_options())?;
                let info = setup.adapter.get_info();
                println!("{} ({:?}), phasor's kernels", info.name, info.backend);
                (device, Implementation::Kernels)
            }
            Self::Cpu => {
                println!("Burn's CPU backend, the formula in its operations");
                (Device::flex(), Implementation::Formula)
            }
        })
    }
}

fn run() -> Result<bool> {
    let args = Args::parse();
    let (device, implementation) = args.backend.start()?;
    let device = device.autodiff();
    let (mut passed, mut failed) = (0, 0);
    for path in &args.check {
        match check::check(path, implementation, &device) {
            Ok(summary) => {
                println!("ok      {}: {summary}", path.display());
                passed += 1;
            }
            Err(error) => {
                println!("FAILED  {}: {error}", path.display());
                failed += 1;
            }
        }
    }
    println!("check: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("train: {error}");
            ExitCode::FAILURE
        }
    }
}
