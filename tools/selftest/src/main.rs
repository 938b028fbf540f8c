//! Probes the device at hand: `cargo run --release --bin selftest`. Fails where a probe does.

use std::process::ExitCode;
use std::time::Instant;

use phasor::selftest::selftest_with;
use phasor_kit::gpu::Gpu;

fn main() -> Result<ExitCode, String> {
    let gpu = Gpu::new()?;
    let start = Instant::now();
    let report = selftest_with(&gpu.device, &gpu.queue, gpu.capabilities());
    println!("{report}\nin {:.2} s", start.elapsed().as_secs_f64());
    let caps = report.apply(gpu.capabilities());
    for quarantine in &caps.quarantined {
        println!("left out: {quarantine}");
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
