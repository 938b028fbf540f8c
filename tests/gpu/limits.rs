//! Devices made with the limits that somebody wrote down, and not with those of the adapter: every
//! kernel runs there, or says which limit is missing.

use std::path::Path;

use phasor::{Capabilities, Compiler, Error, wgpu};
use phasor_kit::{
    cases::{self, Case},
    gpu::Gpu,
    replay,
    runner::Device,
};

use crate::harness::{Result, every_kernel, lab};

/// How a kind of case went, by file and case; `Err` holds the limit that was missing.
type Outcome = std::result::Result<(), &'static str>;

/// One small case of each kernel: rotation, scores, linear attention, fused attention, and
/// attention through append, decode and merge.
const CASES: [(&str, &str); 5] = [
    ("ropepp_apply", "/plain.rope"),
    ("ropepp_scores", ""),
    ("linear_attention_rope", ""),
    ("attention_features", "/window16_q1"),
    ("attention_features", "/split"),
];

/// Runs the first case of each row on a device with these limits.
fn outcomes(limits: &wgpu::Limits) -> Result<Vec<Outcome>> {
    // One device at a time where an adapter wants that.
    let _turn = lab();
    let gpu = Gpu::with(|_| (limits.clone(), wgpu::Features::empty()))?;
    assert_eq!(
        gpu.device.limits().max_storage_buffers_per_shader_stage,
        limits.max_storage_buffers_per_shader_stage
    );
    let device = Device::new(&gpu);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let mut outcomes = Vec::new();
    for (file, part) in CASES {
        let cases = cases::load(&data.join(file).with_extension("safetensors"))?.cases;
        let found = cases.iter().find(|case| !case.on_host() && case.name().contains(part));
        let case: &Case = found.ok_or_else(|| format!("no case {part} in {file}"))?;
        println!("{}", case.name());
        outcomes.push(match replay::run(case, &device) {
            Ok(_) => Ok(()),
            Err(error) => match error.downcast_ref() {
                Some(Error::Limit { limit, needed, available, .. }) if needed > available => {
                    Err(*limit)
                }
                _ => return Err(format!("{}: {error}", case.name()).into()),
            },
        });
    }
    Ok(outcomes)
}

/// `scripts/race-check.sh` runs this one under the validation layer as well.
#[test]
#[ignore = "compiles every kernel anew: minutes on a software adapter"]
fn every_kernel_runs_at_the_default_limits_of_webgpu() {
    assert_eq!(outcomes(&wgpu::Limits::defaults()).unwrap(), [Ok(()); CASES.len()]);
}

/// OpenGL ES 3.1: four storage buffers a stage, which a merge makes do with, and nothing else.
#[test]
fn downlevel_limits_run_or_name_the_limit() {
    let few = Err("max_storage_buffers_per_shader_stage");
    let outcomes = outcomes(&wgpu::Limits::downlevel_defaults()).unwrap();
    assert_eq!(outcomes, [few, few, few, few, Ok(())]);
}

/// What a plan prints is what runs, on whatever device: it is held to the limits, and not made
/// anew.
#[test]
fn the_plan_that_is_handed_in_is_the_plan_that_runs() {
    let gpu = &lab().gpu;
    let mut planned = Capabilities::webgpu_default();
    // Tiles of the other kind of device.
    planned.software = !gpu.capabilities().software;
    for (name, compile) in every_kernel(Compiler::new(&gpu.device), &planned) {
        compile().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// WebGL 2 has no compute shaders.
#[test]
fn webgl_limits_are_refused_with_the_limit() {
    for outcome in outcomes(&wgpu::Limits::downlevel_webgl2_defaults()).unwrap() {
        assert!(outcome.is_err());
    }
}
