//! Tiles: every way to save workgroup memory, the plans of other devices, and calls of more
//! workgroups than a dimension holds.

use phasor::attention::{AttentionPlan, AttentionProblem, AttentionShape, BlockedTile};
use phasor::rotary::RopeConfig;
use phasor::{Capabilities, HeadMap};

use super::{Case, control, small_blocks, small_tile};
use crate::harness::{Ids, NARROW_WORKGROUPS, Rotation, narrow, run_table};

/// D = 24 with a tail: three groups of eight channels, the last one not rotated.
pub fn problem(heads: HeadMap) -> AttentionProblem {
    let mut problem = AttentionProblem::new(heads, 1, 24);
    problem.rotary_dim = 16;
    problem.value_dim = 24;
    problem.lse = true;
    problem
}

#[test]
fn tiles() {
    let all = small_blocks(24);
    let over = BlockedTile { pv_apart: false, ..all };
    let streamed = BlockedTile { q_resident: false, chunk_units: 2, ..over };
    let tiles = [
        ("v over k", BlockedTile { v_quads: 4, ..over }),
        ("k in chunks, v in two steps over it", BlockedTile { chunk_units: 2, v_quads: 2, ..over }),
        ("q and k in chunks, v a key quad at a time", streamed),
        ("wide", BlockedTile { tx: 8, ty: 2, key_quads: 2, v_quads: 2, ..all }),
        ("tall", BlockedTile { tx: 2, ty: 8, row_pairs: 2, ..all }),
        ("one invocation", BlockedTile { tx: 1, ty: 1, ..all }),
    ];
    let mut cases = Vec::new();
    for (name, tile) in tiles {
        let problem = problem(HeadMap::ropepp(2).unwrap());
        cases.push((format!("{name}, two streams"), Case::tiled(&problem, tile).unwrap()));
    }
    let (name, wide) = tiles[3];
    let problem = problem(HeadMap::imagx(2).unwrap());
    cases.push((format!("{name}, one stream"), Case::tiled(&problem, wide).unwrap()));
    run_table(&cases, Case::check);
}

/// What a device with WebGPU's default limits runs, run on this one.
#[test]
fn plans_for_the_default_limits() {
    let least = Capabilities::webgpu_default();
    let case = |(name, problem): (&str, AttentionProblem)| {
        let plan = problem.plan(&least).unwrap();
        let rotation = problem
            .rotate_q
            .then(|| Rotation::new(RopeConfig::new(problem.head_dim, 10_000.0), Ids::From(2)));
        (name.to_owned(), Case { rotation, ..Case::planned(plan) })
    };
    let new = |heads: phasor::Result<HeadMap>, d| AttentionProblem::new(heads.unwrap(), 1, d);
    let cases = [
        ("RoPE++, D 64", new(HeadMap::ropepp(2), 64)),
        (
            "RoPE++, D 256, rotated here",
            AttentionProblem { rotate_q: true, ..new(HeadMap::ropepp(1), 256) },
        ),
    ];
    run_table(&cases.map(case), Case::check);
}

/// On a device that takes few workgroups along a dimension, a call folds into two.
#[test]
fn many_workgroups() {
    let caps = narrow().gpu.capabilities();
    let plan = AttentionPlan::with_tile(&control(), &caps, small_tile(16)).unwrap();
    let control = Case::planned(plan);
    let max = NARROW_WORKGROUPS;
    let mut cases = Vec::new();
    // Two head rows a batch and tile of eight queries.
    for (name, batch, tiles) in [
        ("one row", 1, max / 2),
        ("a row and a bit", 1, max / 2 + 1),
        ("a prime number of them, twice", 1, 11),
        ("almost all there can be", 6, 4),
    ] {
        let shape = AttentionShape::new(batch, 8 * tiles - 3, 20);
        assert_eq!(control.plan.cost(&shape).workgroups, u64::from(2 * batch * tiles));
        cases.push((name.to_owned(), Case { shape, ..control.clone() }));
    }
    run_table(&cases, |case| {
        let inputs = case.inputs();
        case.hold(&case.run(narrow(), &inputs)?, &case.reference(&inputs)?)
    });
}
