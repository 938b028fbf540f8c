//! Pairings, partial rotation, and queries that the kernel rotates itself.

use phasor::HeadMap;
use phasor::attention::AttentionProblem;
use phasor::rotary::{Axial2d, Pairing, PositionAxes, RopeConfig, RopeRule, Xpos};

use super::{Case, control, precision};
use crate::harness::{Ids, Rotation, run_table};

/// D and r, and how pairs lie.
fn paired(head_dim: u32, rotary_dim: u32, pairing: Pairing) -> AttentionProblem {
    let heads = control().heads;
    let precision = precision();
    let problem = AttentionProblem::new(heads, 1, head_dim);
    AttentionProblem { rotary_dim, pairing, precision, ..problem }
}

#[test]
fn pairs_of_rotated_queries() {
    let cases = [
        ("interleaved", 16, 16, Pairing::Interleaved),
        ("interleaved on their way to half-split", 16, 16, Pairing::InterleavedToHalf),
        ("half-split in two blocks", 32, 32, Pairing::HalfBlocks(2)),
        ("half-split, partial", 24, 16, Pairing::Half),
        ("half-split, partial, odd", 48, 20, Pairing::Half),
        ("half-split, one pair", 8, 2, Pairing::Half),
        ("half-split, a unit of the tail begins past the head", 24, 6, Pairing::Half),
        ("interleaved, partial, odd", 24, 10, Pairing::Interleaved),
        ("half-split in two blocks, partial", 40, 16, Pairing::HalfBlocks(2)),
    ];
    let case = |(name, d, r, pairing): (&str, _, _, _)| {
        (name.to_owned(), Case::quick(&paired(d, r, pairing)).unwrap())
    };
    run_table(&cases.map(case), Case::check);
}

/// The kernel rotates the query: where pairs and tails lie.
#[test]
fn pairs_of_queries_rotated_here() {
    let mut cases = Vec::new();
    for (name, d, r, pairing) in [
        ("interleaved", 16, 16, Pairing::Interleaved),
        ("interleaved to half-split", 16, 16, Pairing::InterleavedToHalf),
        ("half-split in two blocks", 32, 32, Pairing::HalfBlocks(2)),
        ("interleaved to half-split, partial, odd", 24, 10, Pairing::InterleavedToHalf),
    ] {
        let problem = AttentionProblem { rotate_q: true, ..paired(d, r, pairing) };
        let config = RopeConfig { rotary_dim: r, pairing, ..RopeConfig::new(d, 10_000.0) };
        let rotation = Some(Rotation::new(config, Ids::From(7)));
        cases.push((name.to_owned(), Case { rotation, ..Case::quick(&problem).unwrap() }));
    }
    run_table(&cases, Case::check);
}

/// Tables and positions, which all go through one pipeline.
#[test]
fn positions_of_queries_rotated_here() {
    let problem = AttentionProblem { rotate_q: true, ..paired(16, 16, Pairing::Half) };
    let plain = RopeConfig::new(16, 10_000.0);
    let config = |axes| RopeConfig { axes, ..plain.clone() };
    let yarn = RopeConfig { rule: RopeRule::yarn_rotations(4.0), ..plain.clone() };
    let sectioned = config(PositionAxes::MropeSectioned([2, 3, 3]));
    let alternating = config(PositionAxes::MropeInterleaved([4, 2, 2]));
    let axial = config(PositionAxes::Axial2d(Axial2d::Alternating));
    let rotations = [
        ("from 0", Rotation::new(plain.clone(), Ids::From(0))),
        ("from 100", Rotation::new(plain.clone(), Ids::From(100))),
        ("ids shared by batches", Rotation::new(plain.clone(), Ids::Shared)),
        ("ids a batch", Rotation::new(plain.clone(), Ids::PerBatch)),
        ("three streams in sections", Rotation::new(sectioned.clone(), Ids::PerBatch)),
        ("three streams that are one", Rotation::new(sectioned.clone(), Ids::From(3))),
        ("three streams shared by batches", Rotation::new(sectioned, Ids::Shared)),
        ("three streams in turns", Rotation::new(alternating, Ids::PerBatch)),
        ("two streams", Rotation::new(axial, Ids::PerBatch)),
        ("scaled cosines and sines", Rotation::new(yarn, Ids::From(11))),
        (
            "xPos",
            Rotation {
                xpos: Some(Xpos { scale_base: 64.0, centre: 20, gamma: 0.4 }),
                ..Rotation::new(plain, Ids::From(5))
            },
        ),
    ];
    let case = |(name, rotation): (&str, _)| {
        (name.to_owned(), Case { rotation: Some(rotation), ..Case::quick(&problem).unwrap() })
    };
    run_table(&rotations.map(case), Case::check);
}

#[test]
fn one_stream_rotated_here() {
    let rotation = Rotation::new(RopeConfig::new(16, 10_000.0), Ids::From(9));
    let case = |(name, heads): (&str, phasor::Result<HeadMap>)| {
        let heads = heads.unwrap();
        let problem = AttentionProblem { heads, rotate_q: true, ..paired(16, 16, Pairing::Half) };
        let rotation = Some(rotation.clone());
        (name.to_owned(), Case { rotation, ..Case::quick(&problem).unwrap() })
    };
    let maps = [("real", HeadMap::plain(2)), ("real and imaginary", HeadMap::imagx(2))];
    run_table(&maps.map(case), Case::check);
}
