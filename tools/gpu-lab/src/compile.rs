//! `--compile`: whether a GPU's compiler accepts shaders that were planned elsewhere.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use phasor::shader::Shader;
use phasor::{Capabilities, KernelKind, MatrixSide};
use serde::{Deserialize, Serialize};

use crate::gpus::Gpu;
use crate::probe::{MARK, capabilities};
use crate::vulkan::{self, Driver};
use crate::{read_probe, spirv};

/// The verdict on one shader, in the order of the file: with neither, it was compiled.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    gpu: String,
    /// What the device has too little of.
    too_large: Option<String>,
    error: Option<String>,
}

/// The part that runs with the GPU's driver.
pub fn probe(gpu: &Gpu, file: &Path) -> Result<()> {
    let caps = capabilities(false)?;
    let driver = Driver::open()?;
    for line in read(file)?.lines() {
        let shader = shader(line)?;
        let too_large = too_large(&shader, &caps);
        let compile = || -> Result<()> {
            let spirv = spirv::compile(&shader, driver.robust_buffers, false)?;
            driver.compile(&shader, &spirv, caps.subgroup.is_some()).map(drop)
        };
        let error = match too_large {
            Some(_) => None,
            None => compile().err().map(|error| format!("{error:#}")),
        };
        vulkan::flush_c_output();
        let verdict = Verdict { gpu: gpu.name.into(), too_large, error };
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{MARK}{}", serde_json::to_string(&verdict)?)?;
        out.flush()?;
    }
    Ok(())
}

/// Starts that part, and prints one line of JSON a shader.
pub fn run(gpu: &Gpu, root: &Path, file: &Path) -> Result<()> {
    let mut command = gpu.command(root, &std::env::current_exe()?)?;
    command.args(["--probe", gpu.name, "--compile"]).arg(file).stdin(Stdio::null());
    // Nobody reads the disassembly, which two drivers would print.
    command.env_remove("AGX_MESA_DEBUG").env_remove("IR3_SHADER_DEBUG");
    let (output, status) = read_probe(command)?;
    let verdicts = || output.lines().filter_map(|line| line.strip_prefix(MARK));
    verdicts().for_each(|verdict| println!("{verdict}"));
    ensure!(status.success(), "{}: the probe ended with {status}:\n{output}", gpu.name);
    let (given, answered) = (read(file)?.lines().count(), verdicts().count());
    ensure!(given == answered, "{}: {answered} verdicts on {given} shaders", gpu.name);
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// A shader from the JSON of `Shader::to_json`. Its names live as long as this short-lived process.
fn shader(line: &str) -> Result<Shader> {
    #[derive(Deserialize)]
    struct Given {
        label: String,
        source: String,
        kernel: String,
        entry: String,
        overrides: std::collections::BTreeMap<String, f64>,
        workgroup_size: u32,
        workgroup_bytes: u32,
        storage_buffers: u32,
        table_bytes: u64,
        subgroup: Option<(u32, u32)>,
        matrices: Option<u32>,
    }
    let given: Given = serde_json::from_str(line)?;
    let name = |name: String| -> &'static str { name.leak() };
    let Some(kernel) = KernelKind::named(&given.kernel) else {
        bail!("no kernel is called {}", given.kernel);
    };
    Ok(Shader {
        kernel,
        label: given.label,
        source: given.source,
        entry: name(given.entry),
        overrides: given.overrides.into_iter().map(|(key, value)| (name(key), value)).collect(),
        workgroup_size: given.workgroup_size,
        workgroup_bytes: given.workgroup_bytes,
        storage_buffers: given.storage_buffers,
        table_bytes: given.table_bytes,
        subgroup: given.subgroup,
        matrices: given.matrices.and_then(MatrixSide::of),
    })
}

fn too_large(shader: &Shader, caps: &Capabilities) -> Option<String> {
    if shader.matrices.is_some() {
        return Some("matrix units".into());
    }
    let needs = [
        ("bytes of workgroup memory", shader.workgroup_bytes, caps.max_workgroup_bytes),
        ("invocations", shader.workgroup_size, caps.max_invocations),
        ("storage buffers", shader.storage_buffers, caps.max_storage_buffers),
    ];
    let (what, need, has) = needs.into_iter().find(|(_, need, has)| need > has)?;
    Some(format!("{need} {what}, of {has}"))
}
