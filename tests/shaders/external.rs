//! Hands translations to the compilers and validators of others.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use phasor_kit::runner::Remote;
use serde_json::{Value, json};

use crate::compiled::Compiled;
use crate::variants::Variant;
use crate::{COMPILED, NO_MATRICES, in_parallel};

/// What one target makes of one variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    Accepted,
    Refused(String),
    /// The variant was planned for a larger device than the target has or can be; why.
    TooLarge(String),
}

impl From<Result<(), String>> for Cell {
    fn from(result: Result<(), String>) -> Self {
        match result {
            Ok(()) => Cell::Accepted,
            Err(why) => Cell::Refused(why),
        }
    }
}

/// A cell for every variant, or why the target could not be asked.
pub type Column = Result<Vec<Cell>, String>;

/// A program by its name on the search path, or by the value of an environment variable of that
/// name in capitals (`DXC`, `SPIRV_VAL`), which may hold arguments.
pub fn program(name: &str) -> Result<Vec<String>, String> {
    let variable = name.to_uppercase().replace('-', "_");
    let words = std::env::var(&variable).unwrap_or_else(|_| name.to_owned());
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let found = words.first().is_some_and(|program| {
        let search = std::env::var_os("PATH").unwrap_or_default();
        program.contains('/') && Path::new(program).is_file()
            || std::env::split_paths(&search).any(|folder| folder.join(program).is_file())
    });
    if found { Ok(words) } else { Err(format!("no {name}")) }
}

/// Writes a translation of every variant to a file and runs a program on it. Files stay below
/// `target/tmp`, for other tools to look at.
pub fn files(
    name: &str,
    extension: &str,
    translate: impl Fn(&Compiled) -> Result<Vec<u8>, String> + Sync,
    arguments: impl Fn(&Variant) -> Vec<String> + Sync,
    fits: impl Fn(&Variant) -> Result<(), String> + Sync,
) -> Column {
    let program = program(name)?;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(extension);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| e.to_string())?;
    }
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let numbered: Vec<_> = COMPILED.iter().enumerate().collect();
    let run = |&(number, (variant, compiled)): &(usize, &(&Variant, Result<Compiled, String>))| {
        let bytes = translate(compiled.as_ref().map_err(String::clone)?)?;
        let path = folder.join(format!("{number}.{extension}"));
        std::fs::write(&path, bytes).map_err(|e| e.to_string())?;
        let output = Command::new(&program[0])
            .args(&program[1..])
            .args(arguments(variant))
            .arg(&path)
            .output()
            .map_err(|e| format!("{} does not run: {e}", program[0]))?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        Err(format!("{}: {}", path.display(), String::from_utf8_lossy(&text)))
    };
    let mut cells: Vec<(usize, Cell)> = in_parallel(&numbered, |item| {
        let (number, (variant, _)) = item;
        (*number, fits(variant).map_or_else(Cell::TooLarge, |()| run(item).into()))
    });
    cells.sort_by_key(|(number, _)| *number);
    Ok(cells.into_iter().map(|(_, cell)| cell).collect())
}

/// Compiles every variant with Tint, Dawn's compiler, on the device that Dawn finds.
pub fn tint() -> Column {
    let node = program("node")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/tint");
    if !folder.join("node_modules/webgpu").is_dir() {
        return Err("no npm package webgpu".into());
    }
    let script = folder.join("run.mjs").display().to_string();
    let mut dawn = Remote::start(&node[0], &[script]).map_err(|e| e.to_string())?;
    let mut ask = |request: &Value| dawn.ask(request).map_err(|e| format!("Dawn: {e}"));
    let limits = ask(&json!({}))?["limits"].clone();
    let limit = |name: &str| limits[name].as_u64().ok_or_else(|| format!("Dawn has no {name}"));
    let has = [
        limit("maxComputeWorkgroupStorageSize")?,
        limit("maxComputeInvocationsPerWorkgroup")?,
        limit("maxStorageBuffersPerShaderStage")?,
    ];
    COMPILED
        .iter()
        .map(|(variant, _)| {
            if variant.shader.matrices.is_some() {
                return Ok(Cell::TooLarge(NO_MATRICES.into()));
            }
            if let Some(why) = beyond(variant, has) {
                return Ok(Cell::TooLarge(why));
            }
            let answer = ask(&json!({ "shader": variant.shader.to_json() }))?;
            Ok(answer["error"].as_str().map_or(Ok(()), |error| Err(error.to_owned())).into())
        })
        .collect()
}

/// Why a variant is more than a device with this workgroup memory, these invocations and storage
/// buffers can take.
fn beyond(variant: &Variant, has: [u64; 3]) -> Option<String> {
    let shader = &variant.shader;
    let needs = [shader.workgroup_bytes, shader.workgroup_size, shader.storage_buffers];
    let what = ["bytes of workgroup memory", "invocations", "storage buffers"];
    let beyond = |((what, need), has): ((&str, u32), u64)| {
        (u64::from(need) > has).then(|| format!("{need} {what}, of {has}"))
    };
    what.into_iter().zip(needs).zip(has).find_map(beyond)
}

/// Compiles every variant with the driver of a GPU that is not there.
pub fn gpu_lab(gpu: &str) -> Column {
    let program = program("gpu-lab")?;
    let shaders = COMPILED.iter().map(|(variant, _)| format!("{}\n", variant.shader.to_json()));
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("shaders-{call}.jsonl"));
    let mut file = std::fs::File::create(&path).map_err(|e| e.to_string())?;
    file.write_all(shaders.collect::<String>().as_bytes()).map_err(|e| e.to_string())?;
    let output = Command::new(&program[0])
        .args(&program[1..])
        .args(["--gpus", gpu, "--compile"])
        .arg(&path)
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| format!("{} does not run: {e}", program[0]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut cells = Vec::new();
    for line in text.lines() {
        let answer: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
        let of = |key: &str| answer[key].as_str().map(str::to_owned);
        cells.push(match (of("too_large"), of("error")) {
            (Some(why), _) => Cell::TooLarge(why),
            (None, error) => error.map_or(Ok(()), Err).into(),
        });
    }
    if cells.is_empty() && !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(error.lines().last().unwrap_or("gpu-lab failed").to_owned());
    }
    // Where a driver brought its process down, it did so at the next variant.
    cells.resize(COMPILED.len(), Cell::Refused(format!("the driver ended: {}", output.status)));
    Ok(cells)
}
