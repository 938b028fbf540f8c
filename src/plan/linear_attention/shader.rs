//! Joins the WGSL files of the passes and fills in their constants.

use core::fmt::Write as _;

use super::{FeatureMap, LinearAttentionProblem, Tile};
use crate::DType;
use crate::plan::Shader;
use crate::rotary::Pairing;

macro_rules! wgsl {
    ($name:literal) => {
        include_str!(concat!("../../../shaders/", $name, ".wgsl"))
    };
}

/// Rows that a workgroup of the random features owns.
pub(super) const FAVOR_ROWS: u32 = 8;
/// Invocations of a workgroup of the scan and of the random features: every device has them.
pub(super) const WORKGROUP: u32 = 64;

/// Entries of the uniform table of output heads: few sizes, so that similar models share a shader.
pub(super) fn head_slots(problem: &LinearAttentionProblem) -> u32 {
    (problem.heads.heads().len() as u32).next_power_of_two().max(16)
}

fn by(dtype: DType, f32: &'static str, f16: &'static str) -> &'static str {
    if dtype == DType::F32 { f32 } else { f16 }
}

fn label(pass: &str, problem: &LinearAttentionProblem) -> String {
    format!(
        "linear attention {pass} D{} F{} Dv{} {}{}{}",
        problem.head_dim,
        problem.feature_dim(),
        problem.value_dim,
        problem.q_dtype,
        problem.kv_dtype,
        problem.out_dtype,
    )
}

/// What the passes over features have in common, in front of them.
fn common(problem: &LinearAttentionProblem, tile: &Tile) -> String {
    let pairs = problem.rotary_dim / 2;
    let (read, written, blocks) = match problem.pairing {
        Pairing::Half => (false, false, 1),
        Pairing::Interleaved => (true, true, 1),
        Pairing::InterleavedToHalf => (true, false, 1),
        Pairing::HalfBlocks(n) => (false, false, n),
    };
    let numbers = [
        ("FEATURE_DIM", problem.feature_dim()),
        ("VALUE_DIM", problem.value_dim),
        ("PAIRS", pairs),
        // At least 1, as WGSL divides by it.
        ("BLOCK_PAIRS", (pairs / blocks).max(1)),
        ("HEAD_SLOTS", head_slots(problem)),
        ("TX", tile.tx),
        ("TY", tile.ty),
        ("ROWS", tile.rows),
        ("COLS", tile.cols),
    ];
    let flags = [
        ("READ_INTERLEAVED", read),
        ("WRITE_INTERLEAVED", written),
        ("CAUSAL", problem.causal),
        ("COMPACT", tile.compact),
    ];
    let mut text = String::new();
    for (name, value) in numbers {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "const {name}: u32 = {value}u;");
    }
    for (name, value) in flags {
        let _ = writeln!(text, "const {name}: bool = {value};");
    }
    let features = match &problem.feature_map {
        FeatureMap::EluPlusOne => wgsl!("linear_attention/elu"),
        FeatureMap::Custom(hook) => hook.wgsl(),
        FeatureMap::Favor { .. } => wgsl!("linear_attention/mapped"),
    };
    let table = match problem.rotary_dim {
        0 => wgsl!("linear_attention/table_none"),
        _ => wgsl!("linear_attention/table"),
    };
    // The hook ends where the caller ended it, so a line break goes behind.
    for part in ["\n", features, "\n", wgsl!("rotary"), table, wgsl!("linear_attention")] {
        text.push_str(part);
    }
    text
}

/// Storage of q and k as the passes over features see them: random features are f32.
fn features_dtype(problem: &LinearAttentionProblem, dtype: DType) -> DType {
    if problem.is_favor() { DType::F32 } else { dtype }
}

fn table_buffers(problem: &LinearAttentionProblem) -> u32 {
    if problem.rotary_dim == 0 { 0 } else { 2 }
}

pub(super) fn sums(problem: &LinearAttentionProblem, tile: &Tile) -> Shader {
    let k = features_dtype(problem, problem.kv_dtype);
    let source = [
        &common(problem, tile),
        by(k, wgsl!("io/k_f32"), wgsl!("io/k_f16")),
        by(problem.kv_dtype, wgsl!("io/v_f32"), wgsl!("io/v_f16")),
        wgsl!("linear_attention/keys"),
        wgsl!("linear_attention/sums"),
    ];
    Shader {
        label: label("sums", problem),
        source: source.concat(),
        entry: "sums",
        overrides: vec![("WORKGROUP", f64::from(tile.threads()))],
        workgroup_size: tile.threads(),
        workgroup_bytes: 16 * 2 * 16 * tile.block() / 4,
        storage_buffers: 3 + table_buffers(problem),
        subgroup: false,
    }
}

pub(super) fn scan(problem: &LinearAttentionProblem, tile: &Tile) -> Shader {
    let state = match problem.state {
        true => wgsl!("linear_attention/state"),
        false => wgsl!("linear_attention/state_none"),
    };
    Shader {
        label: label("scan", problem),
        source: [&common(problem, tile), state, wgsl!("linear_attention/scan")].concat(),
        entry: "scan",
        overrides: vec![("WORKGROUP", f64::from(WORKGROUP))],
        workgroup_size: WORKGROUP,
        workgroup_bytes: 0,
        storage_buffers: if problem.state { 3 } else { 1 },
        subgroup: false,
    }
}

pub(super) fn outputs(problem: &LinearAttentionProblem, tile: &Tile) -> Shader {
    let [q, k] = [problem.q_dtype, problem.kv_dtype].map(|x| features_dtype(problem, x));
    let source = [
        &common(problem, tile),
        by(q, wgsl!("io/q_f32"), wgsl!("io/q_f16")),
        by(k, wgsl!("io/k_f32"), wgsl!("io/k_f16")),
        by(problem.kv_dtype, wgsl!("io/v_f32"), wgsl!("io/v_f16")),
        by(problem.out_dtype, wgsl!("io/out_f32"), wgsl!("io/out_f16")),
        wgsl!("finite"),
        wgsl!("linear_attention/keys"),
        wgsl!("linear_attention/outputs"),
    ];
    Shader {
        label: label("outputs", problem),
        source: source.concat(),
        entry: "outputs",
        overrides: vec![("WORKGROUP", f64::from(tile.threads()))],
        workgroup_size: tile.threads(),
        // The tiles, and a vector's room for the flag of values that are not finite.
        workgroup_bytes: 16 * 5 * 8 * tile.block() / 4 + 16,
        storage_buffers: 5 + table_buffers(problem),
        subgroup: false,
    }
}

/// The random features of a tensor stored like this; Q and K share the pass.
pub(super) fn favor(problem: &LinearAttentionProblem, dtype: DType) -> Shader {
    let (d, f) = (problem.head_dim, problem.feature_dim());
    let constants = format!(
        "const HEAD_DIM: u32 = {d}u;\nconst FEATURE_DIM: u32 = {f}u;\n\
         const FAVOR_ROWS: u32 = {FAVOR_ROWS}u;\nconst THREADS: u32 = {WORKGROUP}u;\n\n"
    );
    let io = by(dtype, wgsl!("io/q_f32"), wgsl!("io/q_f16"));
    let arrays = [FAVOR_ROWS * d, FAVOR_ROWS * WORKGROUP, FAVOR_ROWS];
    Shader {
        label: format!("random features D{d} F{f} {dtype}"),
        source: [&constants, io, wgsl!("linear_attention/favor")].concat(),
        entry: "favor",
        overrides: vec![("WORKGROUP", f64::from(WORKGROUP))],
        workgroup_size: WORKGROUP,
        workgroup_bytes: arrays.map(|n| (4 * n).next_multiple_of(16)).iter().sum(),
        storage_buffers: 3,
        subgroup: false,
    }
}
