//! What the shader of attention on matrix units has of its own: constants and files.

use super::matrix_tile::parts;
use super::{AttentionProblem, MatrixTile};
use crate::DType;
use crate::plan::cache::CacheType;
use crate::plan::head_rows::HeadRows;
use crate::plan::shader::{Source, wgsl};
use crate::plan::{MatrixSide, Precision};

/// Whether the second stream has a query of its own: where the phases are not real and imaginary,
/// and on Metal, which has matrices of 8 x 8 and no product of a matrix and a number.
fn query_own(head_rows: &HeadRows, tile: &MatrixTile) -> bool {
    head_rows.streams == 2 && (head_rows.mix || tile.side == MatrixSide::M8)
}

pub(super) fn constants(
    problem: &AttentionProblem,
    head_rows: &HeadRows,
    tile: &MatrixTile,
) -> Source {
    let own = query_own(head_rows, tile);
    let x3 = problem.precision == Precision::F16x3Products;
    // A query that is turned by a right angle is still one of f16.
    let computed = problem.rotate_q || head_rows.turn || head_rows.mix;
    let q_parts = if x3 && (computed || problem.q_dtype != DType::F16) { 2 } else { 1 };
    let [k_parts, v_parts] = parts(problem);
    // Extensions of WGSL, which come before all else, and the types of matrices.
    let types = match tile.side {
        MatrixSide::M8 => wgsl!("attention_matrix/side_8"),
        MatrixSide::M16 => wgsl!("attention_matrix/side_16"),
    };
    Source::behind(types)
        .numbers([
            ("LANES", tile.lanes),
            ("SUBGROUPS", tile.subgroups),
            ("BLOCK_K", tile.block_k),
            ("V_RUNS", tile.value_runs(problem)),
            ("Q_PARTS", q_parts),
            ("K_PARTS", k_parts),
            ("V_PARTS", v_parts),
            ("STATE_LEN", head_rows.streams * tile.state_len(problem)),
        ])
        .flags([
            ("PLACES_STAGED", problem.has_slots()),
            ("QUERY_OWN", own),
            ("TURN", head_rows.turn || own),
            ("VALUE_TURNED", tile.value_turned),
            ("V_F16", problem.cache().v == CacheType::F16),
            ("X3", x3),
            ("Q_STAYS", tile.query_stays(problem, head_rows.streams)),
        ])
}

/// The kernel and what it alone calls.
pub(super) fn files(
    head_rows: &HeadRows,
    tile: &MatrixTile,
    places: &'static str,
) -> Vec<&'static str> {
    vec![
        places,
        wgsl!("attention_matrix/parts"),
        wgsl!("attention_matrix/stage"),
        wgsl!("attention_matrix/softmax"),
        match tile.value_turned {
            true => wgsl!("attention_matrix/value_turned"),
            false => wgsl!("attention_matrix/value_rows"),
        },
        match head_rows.streams == 2 && !query_own(head_rows, tile) {
            true => wgsl!("attention_matrix/query_shared"),
            false => wgsl!("attention_matrix/query_own"),
        },
        wgsl!("attention_matrix/streams"),
        wgsl!("attention_matrix"),
    ]
}
