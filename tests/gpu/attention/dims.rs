//! Head dimensions of queries and keys, and of values.

use phasor::attention::AttentionProblem;
use phasor::{HeadMap, Precision};

use super::{Case, control, precision};
use crate::harness::{Result, run_table};

fn dims(head_dim: u32, value_dim: u32) -> AttentionProblem {
    let heads = control().heads;
    let precision = precision();
    AttentionProblem { value_dim, precision, ..AttentionProblem::new(heads, 1, head_dim) }
}

#[test]
fn head_dims() {
    let case = |(d, dv)| Ok((format!("D {d}, D_v {dv}"), Case::small(&dims(d, dv))?));
    let dims = [(8, 8), (8, 136), (40, 40), (72, 80), (80, 72), (96, 24), (112, 112), (256, 256)];
    // Two streams of wider heads do not fit the registers of matrix units.
    let fits = |(d, dv): &(u32, u32)| precision() == Precision::F32 || *d.max(dv) <= 128;
    let cases = dims.into_iter().filter(fits).map(case).collect::<Result<Vec<_>>>();
    run_table(&cases.unwrap(), Case::check);
}

/// As models have them, with the tile that the device gets.
#[test]
fn planned_head_dims() {
    let plain = HeadMap::plain(2).unwrap();
    let problems = [
        ("D 128, two streams", dims(128, 128)),
        ("D 64, one stream", AttentionProblem { heads: plain, ..dims(64, 64) }),
    ];
    let case = |(name, problem): (&str, _)| (name.to_owned(), Case::new(&problem).unwrap());
    run_table(&problems.map(case), Case::check);
}

/// Gemma's full layers, with the tile that the device gets.
#[test]
fn wide_heads() {
    let mut case = Case::new(&dims(512, 512)).unwrap();
    (case.shape.batch, case.shape.seq_q, case.shape.seq_k) = (1, 11, 21);
    case.bias_extent = [1; 3];
    run_table(&[("D 512".to_owned(), case)], Case::check);
}
