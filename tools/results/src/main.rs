//! Checks the results that people post of the browser page, and tabulates them.
//!
//!     cargo run --bin results              docs/results into the table of docs/adapters.md
//!     cargo run --bin results -- --check   changes nothing; says where the table is not theirs
//!     cargo run --bin results -- FILE      only checks a file

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use results::{Document, read, replaced, table};

#[derive(Parser)]
#[command(about = "Checks results of the browser page and tabulates them into docs/adapters.md")]
struct Arguments {
    /// Changes nothing; fails where the table is not up to date.
    #[arg(long)]
    check: bool,
    /// A file to check, and no more.
    file: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("results: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<String, String> {
    if let Some(file) = &arguments.file {
        let document = of(file)?;
        return Ok(format!("{}: {} probes passed", file.display(), document.passed()));
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let entries = fs::read_dir(docs.join("results")).map_err(|e| format!("docs/results: {e}"))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    let mut documents = Vec::new();
    for name in names {
        documents.push((format!("results/{name}"), of(&docs.join("results").join(&name))?));
    }
    let page = docs.join("adapters.md");
    let before = fs::read_to_string(&page).map_err(|e| format!("docs/adapters.md: {e}"))?;
    let after = replaced(&before, &table(&documents))?;
    if before == after {
        return Ok(format!("{} files, and docs/adapters.md has them", documents.len()));
    }
    if arguments.check {
        return Err("docs/adapters.md is not up to date; cargo run --bin results".into());
    }
    fs::write(&page, after).map_err(|e| format!("docs/adapters.md: {e}"))?;
    Ok(format!("{} files into docs/adapters.md", documents.len()))
}

fn of(file: &Path) -> Result<Document, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    read(&text).map_err(|e| format!("{}: {e}", file.display()))
}
