//! Joins the WGSL files of the passes and fills in their constants.

use super::memory::{Memory, cols};
use super::tile::Side;
use super::{AttentionBackwardProblem, BlockedTile, Tile};
use crate::plan::attention::{Keys, Queries};
use crate::plan::head_rows::HeadRows;
use crate::plan::shader::{Source, stored, wgsl};
use crate::plan::{KernelKind, Shader};

/// Invocations of a workgroup of the small passes.
pub(crate) const WORKGROUP: u32 = 64;

fn small(
    problem: &AttentionBackwardProblem,
    head_rows: &HeadRows,
    entry: &'static str,
    storage_buffers: u32,
    files: &[&str],
) -> Shader {
    let sums = entry == "attention_backward_sinks";
    let source = Source::new()
        .numbers([("HEAD_ROWS", head_rows.slots()), ("VALUE_DIM", problem.attention.value_dim)])
        .flags([("TURNS", problem.turns()), ("D_LSE", problem.d_lse)])
        .files(
            [wgsl!("strides"), wgsl!("attention_backward/bindings"), wgsl!("softmax")]
                .into_iter()
                .chain(files.iter().copied()),
        );
    Shader {
        kernel: KernelKind::AttentionBackward,
        label: format!("{} Dv{}", entry.replace('_', " "), problem.attention.value_dim),
        source,
        entry,
        overrides: vec![("WORKGROUP", f64::from(WORKGROUP))],
        workgroup_size: WORKGROUP,
        // Of the small passes that of the sinks alone adds up across invocations, and reads the
        // table.
        workgroup_bytes: if sums { 4 * WORKGROUP } else { 0 },
        storage_buffers,
        table_bytes: if sums { head_rows.bytes() } else { 0 },
        subgroup: None,
        matrices: None,
    }
}

/// Sequences and positions into the workspace.
pub(super) fn places(problem: &AttentionBackwardProblem, head_rows: &HeadRows) -> Shader {
    let p = &problem.attention;
    let rows = match p.queries {
        Queries::Batched => wgsl!("attention_backward/rows_batched"),
        Queries::Ragged => wgsl!("attention_backward/rows_ragged"),
    };
    let keys = match p.keys {
        Keys::Ragged => wgsl!("attention_backward/lengths_ragged"),
        _ => wgsl!("attention_backward/lengths_batched"),
    };
    let prefix = if p.prefix {
        wgsl!("attention_backward/prefix_lens")
    } else {
        wgsl!("attention_backward/prefix_none")
    };
    let buffers = 4 + u32::from(p.queries == Queries::Ragged) + u32::from(p.prefix);
    let files = [rows, keys, prefix, wgsl!("attention_backward_places")];
    small(problem, head_rows, "attention_backward_places", buffers, &files)
}

/// Log-sum-exp and δ of every row into the workspace.
pub(super) fn rows(problem: &AttentionBackwardProblem, head_rows: &HeadRows) -> Shader {
    let files = [
        stored!(problem.attention.out_dtype, "io/d_out"),
        stored!(problem.attention.out_dtype, "io/out_read"),
        wgsl!("attention_backward_rows"),
    ];
    small(problem, head_rows, "attention_backward_rows", 5, &files)
}

pub(super) fn sinks(problem: &AttentionBackwardProblem, head_rows: &HeadRows) -> Shader {
    let files = [wgsl!("head_rows"), wgsl!("attention_backward_sinks")];
    small(problem, head_rows, "attention_backward_sinks", 2, &files)
}

/// dQ, or dK and dV.
pub(super) fn gradients(
    problem: &AttentionBackwardProblem,
    head_rows: &HeadRows,
    tile: &Tile,
    side: Side,
) -> Shader {
    let p = &problem.attention;
    let keys_own = side == Side::Keys;
    Shader {
        kernel: KernelKind::AttentionBackward,
        label: format!(
            "attention backward {} D{} Dv{} x{} {}x{}{} {}{}{}",
            if keys_own { "dk dv" } else { "dq" },
            p.head_dim,
            p.value_dim,
            head_rows.streams,
            tile.own_rows(),
            tile.walked_rows(),
            match tile {
                Tile::Blocked(_) => "",
                Tile::Shuffled(_) => " shuffled",
            },
            p.q_dtype,
            p.kv_dtype,
            p.out_dtype,
        ),
        source: constants(problem, head_rows, tile, side).files(files(problem, tile, side)),
        entry: "attention_backward",
        overrides: vec![("WORKGROUP", f64::from(tile.threads()))],
        workgroup_size: tile.threads(),
        workgroup_bytes: Memory::bytes(problem, head_rows, tile, side),
        storage_buffers: 6
            + u32::from(keys_own)
            + u32::from(problem.turns())
            + u32::from(p.bias.is_some())
            + u32::from(writes_d_bias(problem, side)),
        table_bytes: head_rows.bytes(),
        subgroup: tile.subgroup().map(|size| (size, size)),
        matrices: None,
    }
}

/// Each element of the bias has one query.
fn writes_d_bias(problem: &AttentionBackwardProblem, side: Side) -> bool {
    problem.d_bias && side == Side::Queries
}

/// Private arrays need lengths that are constants, and what those depend on is constant as well.
fn constants(
    problem: &AttentionBackwardProblem,
    head_rows: &HeadRows,
    tile: &Tile,
    side: Side,
) -> Source {
    let p = &problem.attention;
    let [tx, ty, row_pairs, col_quads] = tile.grid();
    let numbers = [
        ("HEAD_DIM", p.head_dim),
        ("VALUE_DIM", p.value_dim),
        ("HEAD_ROWS", head_rows.slots()),
        ("STREAMS", head_rows.streams),
        ("TX", tx),
        ("TY", ty),
        ("ROW_PAIRS", row_pairs),
        ("COL_QUADS", col_quads),
    ];
    let flags = [
        ("KEYS_OWN", side == Side::Keys),
        ("RAGGED_KEYS", p.keys == Keys::Ragged),
        ("SOFTCAP", p.softcap.is_some()),
        ("D_BIAS", writes_d_bias(problem, side)),
        ("MIX", head_rows.mix),
        ("TURN", head_rows.turn),
        ("ROTATE_Q", p.rotate_q),
        ("UNROTATE", problem.unrotate),
    ];
    let few_registers = matches!(tile, Tile::Blocked(tile) if tile.few_registers);
    let source = Source::new()
        .numbers(numbers)
        .numbers(problem.channels().numbers())
        .flags(problem.interleaved())
        .flags(p.rules().flags())
        .flags(flags)
        .flags([("FEW_REGISTERS", few_registers)]);
    match tile {
        Tile::Blocked(tile) => staging(source, problem, head_rows, tile, side),
        Tile::Shuffled(_) => source,
    }
}

/// What a tile in workgroup memory adds.
fn staging(
    source: Source,
    problem: &AttentionBackwardProblem,
    head_rows: &HeadRows,
    tile: &BlockedTile,
    side: Side,
) -> Source {
    let memory = Memory::new(problem, head_rows, tile, side);
    let [cols, value_cols] = cols(problem, tile);
    source.numbers([
        ("COLS", cols),
        ("VALUE_COLS", value_cols),
        ("CHUNK_UNITS", tile.chunk_units),
        ("R_AT", 0),
        ("R_PITCH", memory.r_pitch),
        ("C_AT", memory.c_at),
        ("VALUES_AT", memory.values_at),
        ("W_AT", 0),
        ("W_GROUPS", memory.w_groups),
        ("W_PITCH", memory.w_pitch),
        ("Y_AT", memory.y_at),
        ("Y_COLS", memory.y_cols),
        ("Y_QUADS", tile.y_quads),
        ("Y_HALF", tile.y_quads * memory.y_cols),
        ("Y_STEPS", tile.col_quads * tile.tx / tile.y_quads),
        ("SHARED", memory.len),
    ])
}

fn files<'a>(
    problem: &'a AttentionBackwardProblem,
    tile: &Tile,
    side: Side,
) -> impl Iterator<Item = &'a str> {
    let p = &problem.attention;
    let keys_own = side == Side::Keys;
    // A pass over keys without their rotation, and without that of queries, reads no table.
    let turn = match problem.turns() {
        true => wgsl!("attention_backward/turn"),
        false => wgsl!("attention_backward/turn_none"),
    };
    let values = match keys_own {
        true => wgsl!("attention_backward/values"),
        false => wgsl!("attention_backward/values_none"),
    };
    let d_bias = match writes_d_bias(problem, side) {
        true => wgsl!("attention_backward/d_bias"),
        false => wgsl!("attention_backward/d_bias_none"),
    };
    let kernel = match tile {
        Tile::Blocked(tile) => {
            let work = match tile.few_registers {
                true => wgsl!("attention_backward/work_shared"),
                false => wgsl!("attention_backward/work_kept"),
            };
            vec![work, wgsl!("attention_backward/stage"), wgsl!("attention_backward")]
        }
        Tile::Shuffled(_) => vec![wgsl!("attention_backward_shuffled")],
    };
    let [bias, score_mod, mask_mod] = p.rules().files();
    let others = [
        stored!(p.q_dtype, "io/q"),
        stored!(p.kv_dtype, "io/k"),
        wgsl!("cache/read_k_float"),
        stored!(p.kv_dtype, "io/v"),
        wgsl!("cache/read_v_float"),
        stored!(p.out_dtype, "io/d_out"),
        wgsl!("strides"),
        wgsl!("head_rows"),
        wgsl!("attention_backward/bindings"),
        wgsl!("softmax"),
        wgsl!("attention_backward/sizes"),
        wgsl!("attention_backward/work"),
        wgsl!("attention_backward/operands"),
        wgsl!("channels"),
        wgsl!("attention/load"),
        turn,
        wgsl!("attention_backward/score"),
        wgsl!("score"),
        bias,
        score_mod,
        mask_mod,
        wgsl!("attention_backward/store"),
        values,
        d_bias,
    ];
    others.into_iter().chain(kernel)
}
