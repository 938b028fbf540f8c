//! The portability matrix: every variant by every target, those included that need programs which a
//! plain machine lacks.
//!
//! `scripts/portability-matrix.sh` prints it, and `scripts/portability-tools.sh` gets the programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use naga::back::hlsl::ShaderModel;

use crate::compiled::Compiled;
use crate::external::{self, Cell, Column};
use crate::{COMPILED, NO_MATRICES, every_cell, every_cell_but_matrices, translate};

struct Target {
    name: &'static str,
    column: Column,
    /// What gets the program.
    setup: &'static str,
}

const TOOLS: &str = "scripts/portability-tools.sh";

fn targets() -> Vec<Target> {
    let wanted = std::env::var("TARGETS").unwrap_or_default();
    let mut targets = Vec::new();
    let mut add = |name: &'static str, setup, ask: &dyn Fn() -> Column| {
        if wanted.is_empty() || wanted.split(',').any(|wanted| name.contains(wanted)) {
            let start = std::time::Instant::now();
            targets.push(Target { name, column: ask(), setup });
            eprintln!("{name}: {:.0} s", start.elapsed().as_secs_f32());
        }
    };
    let nothing = "nothing";
    add("naga, no optional capability", nothing, &|| every_cell(|_| Ok(())));
    add("SPIR-V 1.0", nothing, &|| every_cell(|c| translate::spirv(c, (1, 0), false).map(drop)));
    add("SPIR-V 1.6", nothing, &|| every_cell(|c| translate::spirv(c, (1, 6), true).map(drop)));
    add("spirv-val, Vulkan 1.0", TOOLS, &|| spirv_val("vulkan1.0", (1, 0), false));
    add("spirv-val, Vulkan 1.3", TOOLS, &|| spirv_val("vulkan1.3", (1, 6), true));
    add("HLSL 5.1", nothing, &|| {
        every_cell_but_matrices(|c| translate::hlsl(c, ShaderModel::V5_1).map(drop))
    });
    add("HLSL 6.2, DXC", TOOLS, &|| {
        external::files(
            "dxc",
            "hlsl",
            |compiled| translate::hlsl(compiled, ShaderModel::V6_2).map(String::into_bytes),
            |variant| ["-T", "cs_6_2", "-E", variant.shader.entry].map(str::to_owned).to_vec(),
            // All the workgroup memory that Direct3D has: plans for more never come to it.
            |variant| match variant.shader.workgroup_bytes {
                _ if variant.shader.matrices.is_some() => Err(NO_MATRICES.into()),
                bytes if bytes > 32 << 10 => Err(format!("{bytes} bytes of workgroup memory")),
                _ => Ok(()),
            },
        )
    });
    add("MSL 2.0", nothing, &|| every_cell(|c| translate::msl(c, (2, 0)).map(drop)));
    add("GLSL ES 3.10", nothing, &|| {
        every_cell_but_matrices(|c| translate::glsl(c, 310).map(drop))
    });
    add("GLSL ES 3.10, glslang", TOOLS, &|| {
        external::files(
            "glslangValidator",
            "comp",
            |compiled| translate::glsl(compiled, 310).map(String::into_bytes),
            |_| Vec::new(),
            |variant| match variant.shader.matrices {
                Some(_) => Err(NO_MATRICES.into()),
                None => Ok(()),
            },
        )
    });
    add("Tint", TOOLS, &external::tint);
    add("AMD navi31, RADV", TOOLS, &|| external::gpu_lab("navi31"));
    add("NVIDIA Ampere, NVK", TOOLS, &|| external::gpu_lab("ampere"));
    add("Intel Arc A, ANV", TOOLS, &|| external::gpu_lab("dg2"));
    add("Adreno 750, Turnip", TOOLS, &|| external::gpu_lab("adreno750"));
    add("Apple M1, Honeykrisp", TOOLS, &|| external::gpu_lab("m1"));
    targets
}

fn spirv_val(environment: &str, version: (u8, u8), robust: bool) -> Column {
    let bytes = |words: Vec<u32>| words.into_iter().flat_map(u32::to_le_bytes).collect();
    external::files(
        "spirv-val",
        &format!("{environment}.spv"),
        |compiled: &Compiled| translate::spirv(compiled, version, robust).map(bytes),
        |variant| {
            // Vulkan 1.0 has no subgroup operations, and no matrices.
            let late = variant.shader.subgroup.is_some() || variant.shader.matrices.is_some();
            let core = late && environment == "vulkan1.0";
            let environment = if core { "vulkan1.1" } else { environment };
            vec!["--target-env".to_owned(), environment.to_owned()]
        },
        |_| Ok(()),
    )
}

/// Prints the matrix as Markdown, by kernels; every cell of its own goes to
/// `target/tmp/portability.tsv`. `TARGETS=Tint,DXC` asks some targets alone.
#[test]
#[ignore = "takes minutes; scripts/portability-matrix.sh runs it"]
fn portability_matrix() {
    let targets = targets();
    assert!(!targets.is_empty(), "TARGETS names no target");
    let (table, failures, skipped) = summary(&targets);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("portability.tsv");
    std::fs::write(&path, cells(&targets)).unwrap();
    println!("\n{table}\nEvery cell: {}\n{skipped} targets skipped", path.display());
    let n = failures.len();
    let first: Vec<_> = failures.into_iter().take(10).collect();
    assert!(n == 0, "{n} cells refused; the first:\n{}", first.join("\n"));
}

/// The table, all refusals and the number of targets that were not asked.
fn summary(targets: &[Target]) -> (String, Vec<String>, usize) {
    let mut kernels: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, (variant, _)) in COMPILED.iter().enumerate() {
        kernels.entry(variant.shader.entry).or_default().push(number);
    }
    let mut table = "| target |".to_owned();
    for (kernel, numbers) in &kernels {
        write!(table, " {kernel} ({}) |", numbers.len()).unwrap();
    }
    table += &format!(" not accepted |\n|---|{}", "---|".repeat(kernels.len() + 1));
    let (mut failures, mut skipped) = (Vec::new(), 0);
    for Target { name, column, setup } in targets {
        write!(table, "\n| {name} |").unwrap();
        let cells = match column {
            Ok(cells) => cells,
            Err(why) => {
                skipped += 1;
                table += &" - |".repeat(kernels.len());
                write!(table, " skipped: tool missing ({why}); get it with `{setup}` |").unwrap();
                continue;
            }
        };
        assert_eq!(cells.len(), COMPILED.len(), "{name}: a cell a variant");
        for numbers in kernels.values() {
            let accepted = numbers.iter().filter(|&&n| cells[n] == Cell::Accepted).count();
            write!(table, " {accepted} |").unwrap();
        }
        let of_refused = |(n, cell): (usize, &Cell)| match cell {
            Cell::Refused(why) => Some(format!("{name}: {}\n    {why}", COMPILED[n].0.name)),
            _ => None,
        };
        let refused: Vec<_> = cells.iter().enumerate().filter_map(of_refused).collect();
        let large = cells.iter().filter(|cell| matches!(cell, Cell::TooLarge(_))).count();
        let note = match (refused.len(), large) {
            (0, 0) => "none".to_owned(),
            (0, large) => format!("{large} planned for larger devices"),
            (refused, large) => format!("**{refused} refused**, {large} for larger devices"),
        };
        write!(table, " {note} |").unwrap();
        failures.extend(refused);
    }
    (table + "\n", failures, skipped)
}

/// One line a variant, one column a target.
fn cells(targets: &[Target]) -> String {
    let names: Vec<_> = targets.iter().map(|target| target.name).collect();
    let mut text = format!("variant\t{}\n", names.join("\t"));
    for (n, (variant, _)) in COMPILED.iter().enumerate() {
        text += &variant.name;
        for target in targets {
            text += "\t";
            text += &match target.column.as_ref().map(|cells| &cells[n]) {
                Ok(Cell::Accepted) => "accepted".to_owned(),
                Ok(Cell::Refused(_)) => "REFUSED".to_owned(),
                Ok(Cell::TooLarge(why)) => format!("too large: {why}"),
                Err(why) => format!("skipped: {why}"),
            };
        }
        text += "\n";
    }
    text
}

/// A refusal and a missing tool both show, and only a refusal fails.
#[test]
fn no_gap_of_the_matrix_is_silent() {
    let mut cells = vec![Cell::Accepted; COMPILED.len()];
    cells[0] = Cell::Refused("planted".into());
    cells[1] = Cell::TooLarge("planted".into());
    let target = |name, column| Target { name, column, setup: "the command" };
    let targets = [target("asked", Ok(cells)), target("absent", Err("no tool".into()))];
    let (table, failures, skipped) = summary(&targets);
    assert!(failures.len() == 1 && failures[0].contains("planted"), "{failures:?}");
    assert_eq!(skipped, 1);
    assert!(table.contains("**1 refused**, 1 for larger devices"), "{table}");
    assert!(table.contains("skipped: tool missing (no tool); get it with `the command`"));
    let lines = self::cells(&targets);
    assert_eq!(lines.lines().count(), COMPILED.len() + 1);
    assert_eq!(lines.matches("skipped").count(), COMPILED.len());
}
