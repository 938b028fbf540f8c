//! The accuracy certificate of an adapter: the largest error of each kernel and dtype against the
//! f64 oracle, beside the bound that WGSL's rules of accuracy allow (`phasor::numerics` derives
//! it).
//!
//! ```sh
//! cargo run --release --bin certify -- --markdown certificate.md
//! ```
//!
//! Every element of every output is held to a bound of its own; the exit status is 1 when one is
//! broken.

mod bounds;
mod kernels;

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use clap::Parser;
use phasor::DType;
use phasor_kit::gpu::Gpu;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
struct Options {
    /// Where to write the table as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// What came of one kernel and dtype.
pub struct Measured {
    kernel: &'static str,
    storage: String,
    elements: usize,
    /// Largest |got − truth|, the same in ulp of the storage, and the bound of that element.
    error: f64,
    ulp: Option<f64>,
    bound: f64,
    /// Largest error in terms of its bound, over all elements.
    share: f64,
    broken: usize,
}

impl Measured {
    /// Holds every element to its bound; `ulps` is the type whose spacing counts them.
    pub fn new(
        kernel: &'static str,
        storage: impl ToString,
        ulps: Option<DType>,
        got: &[f32],
        truth: &[f64],
        bounds: &[f64],
    ) -> Result<Self> {
        if got.len() < truth.len() || truth.len() != bounds.len() || truth.is_empty() {
            return Err(format!("{kernel}: {} of {}", got.len(), truth.len()).into());
        }
        let mut worst = (-1.0, 0);
        let (mut share, mut broken) = (0.0, 0);
        for (n, ((&got, &truth), &bound)) in got.iter().zip(truth).zip(bounds).enumerate() {
            let error = (f64::from(got) - truth).abs();
            // A NaN is within no bound.
            let within = error <= bound;
            broken += usize::from(!within);
            share = if within { f64::max(share, error / bound) } else { f64::INFINITY };
            if !within && error.is_nan() {
                worst = (f64::INFINITY, n);
            } else if error > worst.0 {
                worst = (error, n);
            }
        }
        let (error, at) = worst;
        Ok(Self {
            kernel,
            storage: storage.to_string(),
            elements: truth.len(),
            error,
            ulp: ulps.map(|dtype| error / spacing(dtype, truth[at])),
            bound: bounds[at],
            share,
            broken,
        })
    }

    fn cells(&self) -> [String; 8] {
        [
            self.kernel.to_owned(),
            self.storage.clone(),
            self.elements.to_string(),
            format!("{:.2e}", self.error),
            self.ulp.map_or("–".to_owned(), |ulp| format!("{ulp:.1}")),
            format!("{:.2e}", self.bound),
            format!("{:.1} %", 100.0 * self.share),
            if self.broken == 0 { "within".to_owned() } else { format!("{} BROKEN", self.broken) },
        ]
    }
}

/// Distance from a number to the next that the type holds.
fn spacing(dtype: DType, x: f64) -> f64 {
    let (digits, least) = match dtype {
        DType::F32 => (23, -149),
        DType::F16 => (10, -24),
    };
    let exponent = if x == 0.0 { least } else { x.abs().log2().floor() as i32 - digits };
    2f64.powi(exponent.max(least))
}

const HEAD: [&str; 8] = [
    "kernel",
    "storage",
    "elements",
    "largest error",
    "in ulp",
    "bound there",
    "most of a bound",
    "",
];

fn markdown(gpu: &Gpu, all: &[Measured]) -> Result<String> {
    let mut text = String::new();
    let info = &gpu.info;
    writeln!(text, "# Accuracy certificate\n")?;
    writeln!(
        text,
        "{} ({:?}, {} {}), phasor {}.\n",
        info.name,
        info.backend,
        info.driver,
        info.driver_info,
        env!("CARGO_PKG_VERSION")
    )?;
    writeln!(
        text,
        "Errors are against the f64 oracle; the bound is what WGSL's accuracy allows at worst for the"
    )?;
    writeln!(
        text,
        "element with the largest error (`phasor::numerics`), and every element is held to its own.\n"
    )?;
    writeln!(text, "| {} |\n|---|---|---:|---:|---:|---:|---:|---|", HEAD.join(" | "))?;
    for measured in all {
        writeln!(text, "| {} |", measured.cells().join(" | "))?;
    }
    for (kernel, measure) in kernels::ALL {
        if let Err(why) = measure {
            writeln!(text, "\nNot certified: {kernel}: {why}.")?;
        }
    }
    Ok(text)
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let gpu = Gpu::new()?;
    println!("{} ({:?}, {})\n", gpu.info.name, gpu.info.backend, gpu.info.driver_info);
    let print = |cells: &[String; 8]| {
        let [kernel, storage, elements, error, ulp, bound, share, verdict] = cells;
        println!(
            "{kernel:20}{storage:22}{elements:>9}{error:>15}{ulp:>9}{bound:>13}{share:>17}  {verdict}"
        );
    };
    print(&HEAD.map(str::to_owned));
    let mut all = Vec::new();
    for (kernel, measure) in kernels::ALL {
        match measure {
            Ok(measure) => {
                for measured in measure(&gpu)? {
                    print(&measured.cells());
                    all.push(measured);
                }
            }
            Err(why) => println!("{:20}not certified: {why}", kernel.name()),
        }
    }
    if let Some(path) = &options.markdown {
        std::fs::write(path, markdown(&gpu, &all)?)?;
    }
    let broken: usize = all.iter().map(|measured| measured.broken).sum();
    match broken {
        0 => println!("\nall {} are within their bounds", all.len()),
        n => eprintln!("\n{n} elements are past their bounds"),
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
