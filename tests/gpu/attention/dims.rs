//! Head dimensions of queries and keys, and of values.

use phasor::{
    DType, HeadMap,
    plan::attention::{AttentionProblem, AttentionShape, Tile},
};

use super::{Case, control, small_tile};
use crate::harness::{Result, run_table};

fn dims(head_dim: u32, value_dim: u32) -> AttentionProblem {
    let heads = control().heads;
    AttentionProblem { value_dim, ..AttentionProblem::new(heads, 1, head_dim) }
}

#[test]
fn head_dims() {
    let case = |(d, dv)| Ok((format!("D {d}, D_v {dv}"), Case::small(&dims(d, dv))?));
    let dims = [(8, 8), (8, 136), (40, 40), (72, 80), (80, 72), (96, 24), (112, 112), (256, 256)];
    run_table(&dims.into_iter().map(case).collect::<Result<Vec<_>>>().unwrap(), Case::check);
}

/// Multi-head latent attention: 64 rotated channels of 576, values of 512.
#[test]
fn latent_dims() {
    let plain = AttentionProblem { heads: HeadMap::plain(2).unwrap(), ..dims(576, 512) };
    let plain = AttentionProblem { rotary_dim: 64, ..plain };
    let both = AttentionProblem { heads: control().heads, ..plain.clone() };
    let f16 = DType::F16;
    let halves = AttentionProblem { q_dtype: f16, kv_dtype: f16, out_dtype: f16, ..plain.clone() };
    // Few channels of V an invocation, which compiles quickly.
    let tile = Tile {
        tx: 32,
        ty: 1,
        chunk_units: 9,
        q_resident: false,
        pv_apart: false,
        ..small_tile(576)
    };
    let shape = AttentionShape::new(2, 5, 43);
    let cases = [("plain", plain), ("both components", both), ("f16", halves)]
        .map(|(name, p)| (name.to_owned(), Case { shape, ..Case::tiled(&p, tile).unwrap() }));
    run_table(&cases, Case::check);
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
