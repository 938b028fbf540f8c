//! Joins the WGSL files of the passes and fills in their constants.

use super::{FeatureMap, LinearAttentionProblem, Tile};
use crate::DType;
use crate::plan::shader::{Source, stored, wgsl};
use crate::plan::{KernelKind, Shader};

/// Rows that a workgroup of the random features owns.
pub(super) const FAVOR_ROWS: u32 = 8;
/// Invocations of a workgroup of the scan and of the random features: every device has them.
pub(crate) const WORKGROUP: u32 = 64;

/// Rows that the sums stage at once.
pub(crate) const SUMS_STEP: u32 = 16;
/// Features that the outputs stage at once.
const OUTPUTS_STEP: u32 = 8;

/// Entries of the uniform table of output heads: few sizes, so that similar models share a shader.
pub(crate) fn head_slots(problem: &LinearAttentionProblem) -> u32 {
    (problem.heads.heads().len() as u32).next_power_of_two().max(16)
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

/// What the passes of a forward call have in common: constants, the feature map, the table. A pass
/// stages `step` keys or features at once.
fn source<'a>(
    problem: &'a LinearAttentionProblem,
    tile: &Tile,
    step: u32,
    files: impl IntoIterator<Item = &'a str>,
) -> String {
    let files = [wgsl!("linear_attention/params")].into_iter().chain(files);
    joined(problem, tile, step, [("BACK", false)], files)
}

/// Likewise of any call; its parameters are the first of the files.
pub(crate) fn joined<'a, const N: usize>(
    problem: &'a LinearAttentionProblem,
    tile: &Tile,
    step: u32,
    more: [(&'static str, bool); N],
    files: impl IntoIterator<Item = &'a str>,
) -> String {
    let pairing = problem.pairing;
    let numbers = [
        ("FEATURE_DIM", problem.feature_dim()),
        ("VALUE_DIM", problem.value_dim),
        ("PAIRS", problem.rotary_dim / 2),
        ("BLOCK_PAIRS", pairing.block_pairs(problem.rotary_dim)),
        ("HEAD_SLOTS", head_slots(problem)),
        ("TX", tile.tx),
        ("TY", tile.ty),
        ("ROWS", tile.rows),
        ("COLS", tile.cols),
        ("STEP", step),
    ];
    let flags = [
        ("READ_INTERLEAVED", pairing.reads_interleaved()),
        ("WRITE_INTERLEAVED", pairing.writes_interleaved()),
        ("CAUSAL", problem.causal),
        ("COMPACT", tile.compact),
    ];
    let features = match &problem.feature_map {
        FeatureMap::EluPlusOne => wgsl!("linear_attention/elu"),
        FeatureMap::Custom(hook) => hook.wgsl(),
        FeatureMap::Favor { .. } => wgsl!("linear_attention/mapped"),
    };
    let table = match problem.rotary_dim {
        0 => wgsl!("linear_attention/table_none"),
        _ => wgsl!("linear_attention/table"),
    };
    let common = [features, wgsl!("rotary"), table, wgsl!("strides"), wgsl!("linear_attention")];
    let files = common.into_iter().chain(files);
    Source::new().numbers(numbers).flags(flags).flags(more).files(files)
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
    let files = [
        stored!(k, "io/k"),
        stored!(problem.kv_dtype, "io/v"),
        wgsl!("linear_attention/keys"),
        wgsl!("linear_attention/entering_keys"),
        wgsl!("linear_attention/plain_keys"),
        wgsl!("linear_attention/sums"),
    ];
    Shader {
        kernel: KernelKind::LinearAttention,
        label: label("sums", problem),
        source: source(problem, tile, SUMS_STEP, files),
        entry: "sums",
        overrides: vec![("WORKGROUP", f64::from(tile.threads()))],
        workgroup_size: tile.threads(),
        // Tiles of features and of values.
        workgroup_bytes: 16 * 2 * SUMS_STEP * (tile.block() / 4),
        storage_buffers: 3 + table_buffers(problem),
        table_bytes: 0,
        subgroup: None,
        matrices: None,
    }
}

pub(super) fn scan(problem: &LinearAttentionProblem, tile: &Tile) -> Shader {
    let state = match problem.state {
        true => wgsl!("linear_attention/state"),
        false => wgsl!("linear_attention/state_none"),
    };
    Shader {
        kernel: KernelKind::LinearAttention,
        label: label("scan", problem),
        source: source(problem, tile, 1, [state, wgsl!("linear_attention/scan")]),
        entry: "scan",
        overrides: vec![("WORKGROUP", f64::from(WORKGROUP))],
        workgroup_size: WORKGROUP,
        workgroup_bytes: 0,
        storage_buffers: if problem.state { 3 } else { 1 },
        table_bytes: 0,
        subgroup: None,
        matrices: None,
    }
}

pub(super) fn outputs(problem: &LinearAttentionProblem, tile: &Tile) -> Shader {
    let [q, k] = [problem.q_dtype, problem.kv_dtype].map(|x| features_dtype(problem, x));
    let files = [
        stored!(q, "io/q"),
        stored!(k, "io/k"),
        stored!(problem.kv_dtype, "io/v"),
        stored!(problem.out_dtype, "io/out"),
        wgsl!("finite"),
        wgsl!("linear_attention/keys"),
        wgsl!("linear_attention/queries"),
        wgsl!("linear_attention/outputs"),
    ];
    Shader {
        kernel: KernelKind::LinearAttention,
        label: label("outputs", problem),
        source: source(problem, tile, OUTPUTS_STEP, files),
        entry: "outputs",
        overrides: vec![("WORKGROUP", f64::from(tile.threads()))],
        workgroup_size: tile.threads(),
        // Five tiles, and a vector's room for the flag of values that are not finite.
        workgroup_bytes: 16 * 5 * OUTPUTS_STEP * (tile.block() / 4) + 16,
        storage_buffers: 5 + table_buffers(problem),
        table_bytes: 16 * u64::from(head_slots(problem)),
        subgroup: None,
        matrices: None,
    }
}

/// The random features of a tensor stored like this; Q and K share the pass.
pub(super) fn favor(problem: &LinearAttentionProblem, dtype: DType) -> Shader {
    let (d, f) = (problem.head_dim, problem.feature_dim());
    let numbers =
        [("HEAD_DIM", d), ("FEATURE_DIM", f), ("FAVOR_ROWS", FAVOR_ROWS), ("THREADS", WORKGROUP)];
    let files = [stored!(dtype, "io/q"), wgsl!("strides"), wgsl!("linear_attention/favor")];
    let arrays = [FAVOR_ROWS * d, FAVOR_ROWS * WORKGROUP, FAVOR_ROWS];
    Shader {
        kernel: KernelKind::LinearAttention,
        label: format!("random features D{d} F{f} {dtype}"),
        source: Source::new().numbers(numbers).files(files),
        entry: "favor",
        overrides: vec![("WORKGROUP", f64::from(WORKGROUP))],
        workgroup_size: WORKGROUP,
        workgroup_bytes: arrays.map(|n| (4 * n).next_multiple_of(16)).iter().sum(),
        storage_buffers: 3,
        table_bytes: 0,
        subgroup: None,
        matrices: None,
    }
}
