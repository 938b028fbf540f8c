//! Hands translations to the compilers and validators of others.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compiled::Compiled;
use crate::variants::Variant;
use crate::{COMPILED, in_parallel};

/// Writes a translation of every variant that `reaches` the target to a file and runs a program on it; every file has to be
/// accepted. Files stay below `target/tmp`, for other tools to look at.
///
/// `program` is a name on the search path, or the value of an environment variable of that name in
/// capitals (`DXC`, `SPIRV_VAL`).
pub fn accepts_all(
    program: &str,
    extension: &str,
    translate: impl Fn(&Compiled) -> Result<Vec<u8>, String> + Sync,
    arguments: impl Fn(&Variant, &Path) -> Vec<String> + Sync,
    reaches: impl Fn(&Variant) -> bool,
) {
    let variable = program.to_uppercase().replace('-', "_");
    let program = std::env::var(&variable).unwrap_or_else(|_| program.to_owned());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(extension);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    let reaching = COMPILED.iter().filter(|(variant, _)| reaches(variant));
    let numbered: Vec<_> = reaching.enumerate().collect();
    let run = |&(number, (variant, compiled)): &(usize, &(&Variant, Result<Compiled, String>))| {
        let bytes = translate(compiled.as_ref().map_err(String::clone)?)?;
        let path = folder.join(format!("{number}.{extension}"));
        std::fs::write(&path, bytes).map_err(|e| e.to_string())?;
        let output = Command::new(&program)
            .args(arguments(variant, &path))
            .output()
            .map_err(|e| format!("{program} (or what {variable} names) does not run: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        let (path, text) = (path.display(), String::from_utf8_lossy(&text));
        Err(format!("{}\n    {path}: {text}", variant.name))
    };
    let failures: Vec<String> =
        in_parallel(&numbered, run).into_iter().filter_map(Result::err).collect();
    let n = failures.len();
    let first: Vec<_> = failures.into_iter().take(10).collect();
    assert!(n == 0, "{n} of {} rejected; the first:\n{}", numbered.len(), first.join("\n"));
    println!("{program} accepted {} files in {}", numbered.len(), folder.display());
}
