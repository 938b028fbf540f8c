//! Prints, writes and compares records.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::isa::Share;
use crate::probe::Record;
use crate::statistics::Statistics;

/// One line a record.
pub fn table(records: &[Record]) {
    println!(
        "{:10} {:32} {:>4} {:>6} {:>7} {:>7} {:>6} {:>5} {:>25} {:>6} {:>6} {:>6} matrix",
        "GPU",
        "variant",
        "regs",
        "spills",
        "scratch",
        "memory",
        "inv.",
        "lanes",
        "occupancy",
        "instr.",
        "QK %",
        "PV %"
    );
    let share = |share: Option<Share>| {
        share.and_then(|s| s.percent()).map_or("-".into(), |percent| format!("{percent:.1}"))
    };
    for record in records {
        match (&record.statistics, &record.error) {
            (Some(s), _) => println!(
                "{:10} {:32} {:>4} {:>6} {:>7} {:>7} {:>6} {:>5} {:>25} {:>6} {:>6} {:>6} {}",
                record.gpu,
                record.variant,
                s.registers,
                s.spills,
                s.scratch,
                s.workgroup_bytes,
                s.invocations,
                s.subgroup_size,
                occupancy(s),
                s.instructions,
                share(s.qk),
                share(s.pv),
                matrices(s.matrix),
            ),
            (None, error) => println!(
                "{:10} {:32} not compiled: {}",
                record.gpu,
                record.variant,
                error.as_deref().unwrap_or("no reason given")
            ),
        }
    }
}

/// Of how many instructions of a step.
fn matrices(share: Option<Share>) -> String {
    let text = |s: Share| format!("{} of {}, {:.1} %", s.fma, s.all, s.percent().unwrap_or(0.0));
    share.map_or(String::new(), text)
}

fn occupancy(s: &Statistics) -> String {
    let memory = s.warps_by_memory.map(|warps| format!(" ({warps} by memory)"));
    format!("{} {}{}", s.occupancy.value, s.occupancy.unit, memory.unwrap_or_default())
}

/// One record a line, so that a change of the baseline can be read.
pub fn write(path: &Path, records: &[Record]) -> Result<()> {
    let lines: Vec<String> = records.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let json = format!("[\n{}\n]\n", lines.join(",\n"));
    std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))
}

/// What must not grow: `(name, value, slack)`. A kernel that became better is no news.
fn costs(s: &Statistics) -> [(&'static str, f64, f64); 7] {
    let share = |share: Option<Share>| share.and_then(|s| s.percent()).map_or(0.0, |p| 100.0 - p);
    [
        ("spills", s.spills, 0.0),
        ("scratch", s.scratch, 0.0),
        ("occupancy", -s.occupancy.value, 0.0),
        ("instructions", s.instructions, 0.02 * s.instructions),
        ("other than FMA in QK, %", share(s.qk), 1.0),
        ("other than FMA in PV, %", share(s.pv), 1.0),
        ("other than matrices in a step, %", share(s.matrix), 0.2),
    ]
}

/// Prints what became worse than in the file, and counts it.
pub fn compare(records: &[Record], path: &Path) -> Result<usize> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let old: Vec<Record> = serde_json::from_str(&text)?;
    let old: BTreeMap<(&str, &str), &Record> =
        old.iter().map(|r| ((r.gpu.as_str(), r.variant.as_str()), r)).collect();
    let mut worse = 0;
    for record in records {
        let Some(before) = old.get(&(record.gpu.as_str(), record.variant.as_str())) else {
            println!("new: {} {}", record.gpu, record.variant);
            continue;
        };
        match (&before.statistics, &record.statistics) {
            (Some(before), Some(now)) => {
                for ((name, old, slack), (_, new, _)) in costs(before).into_iter().zip(costs(now)) {
                    if new > old + slack {
                        worse += 1;
                        let (gpu, variant) = (&record.gpu, &record.variant);
                        println!(
                            "worse: {gpu} {variant}: {name} {:.1} -> {:.1}",
                            old.abs(),
                            new.abs()
                        );
                    }
                }
            }
            (Some(_), None) => {
                worse += 1;
                println!("worse: {} {} no longer compiles", record.gpu, record.variant);
            }
            (None, _) => {}
        }
    }
    println!("{worse} figures worse than in {}", path.display());
    Ok(worse)
}

/// The summary that ends the output.
pub fn last_line(records: &[Record]) -> String {
    let gpus: std::collections::BTreeSet<&str> = records.iter().map(|r| r.gpu.as_str()).collect();
    let spill = records.iter().filter(|r| r.statistics.as_ref().is_none_or(Statistics::spills));
    let worst = records
        .iter()
        .filter_map(|r| r.statistics.as_ref()?.worst_share())
        .min_by(f64::total_cmp)
        .map_or("-".into(), |worst| format!("{worst:.1}"));
    format!(
        "gpu-lab: {} variants on {} GPUs, {} spill, worst FMA share {worst} %",
        records.len(),
        gpus.len(),
        spill.count(),
    )
}
