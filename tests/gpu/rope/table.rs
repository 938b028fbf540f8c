//! The cases: every pairing in every storage, place and direction, on the fast path and on the
//! slow one; then layouts, positions and tables.

use phasor::DType;
use phasor::rope::{Direction, RopeProblem, RopeShape};
use phasor::rotary::{Axial2d, Pairing, PositionAxes, RopeConfig, RopeRule, Turn, Xpos};

use super::Case;
use crate::harness::{Ids, NARROW_WORKGROUPS, Place, Rotation, lab, narrow, run_table};

/// The control: three query heads and one key head of D = 32, r = 16, into other buffers.
fn control() -> RopeProblem {
    RopeProblem { rotary_dim: 16, ..RopeProblem::new(3, 1, 32) }
}

fn config(problem: &RopeProblem) -> RopeConfig {
    RopeConfig {
        rotary_dim: problem.rotary_dim,
        pairing: problem.pairing,
        ..RopeConfig::new(problem.head_dim, 10_000.0)
    }
}

fn case(problem: RopeProblem) -> Case {
    let rotation = Rotation::new(config(&problem), Ids::From(7));
    Case::new(problem, rotation)
}

/// Storage, place and direction of a problem, all of them.
fn every_way(problem: &RopeProblem) -> Vec<(String, Case)> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::F16] {
        for in_place in [false, true] {
            for direction in [Direction::Forward, Direction::Inverse] {
                if in_place && problem.pairing == Pairing::InterleavedToHalf {
                    continue;
                }
                let problem = RopeProblem { dtype, in_place, direction, ..problem.clone() };
                let place = if in_place { "in place" } else { "apart" };
                let name = format!(
                    "{:?}, {} of {}, {dtype}, {place}, {direction:?}",
                    problem.pairing, problem.rotary_dim, problem.head_dim
                );
                cases.push((name, case(problem)));
            }
        }
    }
    cases
}

#[test]
fn four_channels_at_a_time() {
    let pairings = [
        (16, 32, Pairing::Half),
        (16, 32, Pairing::Interleaved),
        (16, 32, Pairing::InterleavedToHalf),
        (32, 32, Pairing::HalfBlocks(2)),
    ];
    let every = |(rotary_dim, head_dim, pairing)| {
        every_way(&RopeProblem { rotary_dim, head_dim, pairing, ..control() })
    };
    run_table(&pairings.into_iter().flat_map(every).collect::<Vec<_>>(), Case::check);
}

#[test]
fn one_channel_at_a_time() {
    let pairings = [
        (10, 24, Pairing::Half),
        (10, 24, Pairing::Interleaved),
        (10, 24, Pairing::InterleavedToHalf),
        (12, 24, Pairing::HalfBlocks(2)),
        (20, 80, Pairing::Half),
        (2, 8, Pairing::Half),
        (6, 6, Pairing::Interleaved),
    ];
    let every = |(rotary_dim, head_dim, pairing)| {
        every_way(&RopeProblem { rotary_dim, head_dim, pairing, aligned: false, ..control() })
    };
    run_table(&pairings.into_iter().flat_map(every).collect::<Vec<_>>(), Case::check);
}

#[test]
fn layouts() {
    let control = case(control());
    let odd = case(RopeProblem { aligned: false, ..control.problem.clone() });
    let packed = |all, first| Place::Packed { all, first };
    let dense = [Place::Bhsd; 2];
    let cases = [
        ("dense", Case { inputs: dense, outputs: dense, ..control.clone() }),
        ("[B, S, H, D]", Case { inputs: [Place::Bshd; 2], outputs: dense, ..control.clone() }),
        ("to [B, S, H, D]", Case { inputs: dense, outputs: [Place::Bshd; 2], ..control.clone() }),
        ("packed", Case { inputs: [packed(5, 0), packed(5, 3)], ..control.clone() }),
        ("to packed", Case { outputs: [packed(5, 2), packed(4, 1)], ..control.clone() }),
        ("one head for all", Case { inputs: [Place::Bhsd, Place::Bhsd], ..control }),
        ("odd to odd", Case { outputs: [Place::Odd(1), Place::Odd(3)], ..odd.clone() }),
        ("gaps, one channel at a time", Case { inputs: [Place::Gaps; 2], ..odd }),
    ];
    run_table(&cases.map(|(name, case)| (name.to_owned(), case)), Case::check);
}

#[test]
fn sizes() {
    let control = case(control());
    let mut cases = Vec::new();
    for (batch, seq) in [(1, 1), (1, 64), (3, 65), (2, 101), (0, 5), (5, 0)] {
        let shape = RopeShape { batch, seq };
        cases.push((format!("B {batch}, S {seq}"), Case { shape, ..control.clone() }));
    }
    for (q_heads, k_heads) in [(1, 0), (5, 0), (8, 2), (1, 8), (1, 1)] {
        let problem = RopeProblem { q_heads, k_heads, ..control.problem.clone() };
        cases.push((format!("{q_heads} + {k_heads} heads"), case(problem)));
    }
    let all = RopeProblem { rotary_dim: 32, ..control.problem.clone() };
    cases.push(("all of D".into(), case(all)));
    let large = RopeProblem { rotary_dim: 512, head_dim: 520, ..control.problem };
    cases.push(("r 512 of D 520".into(), case(large)));
    run_table(&cases, Case::check);
}

#[test]
fn positions_and_tables() {
    let control = case(control());
    let plain = config(&control.problem);
    let with = |axes| RopeConfig { axes, ..plain.clone() };
    let sectioned = with(PositionAxes::MropeSectioned([2, 3, 3]));
    let in_turns = with(PositionAxes::MropeInterleaved([4, 2, 2]));
    let axial = with(PositionAxes::Axial2d(Axial2d::Blocks));
    let xpos = Some(Xpos { scale_base: 64.0, centre: 20, gamma: 0.4 });
    let llama = RopeRule::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let rotations = [
        ("from 0", Rotation::new(plain.clone(), Ids::From(0))),
        ("ids shared by batches", Rotation::new(plain.clone(), Ids::Shared)),
        ("ids a batch", Rotation::new(plain.clone(), Ids::PerBatch)),
        ("three streams in sections", Rotation::new(sectioned.clone(), Ids::PerBatch)),
        ("three streams that are one", Rotation::new(sectioned, Ids::From(4))),
        ("three streams in turns", Rotation::new(in_turns, Ids::Shared)),
        ("two streams", Rotation::new(axial, Ids::PerBatch)),
        ("Llama 3", Rotation::new(RopeConfig { rule: llama, ..plain.clone() }, Ids::From(9))),
        ("xPos", Rotation { xpos, ..Rotation::new(plain.clone(), Ids::From(3)) }),
        ("xPos, ids a batch", Rotation { xpos, ..Rotation::new(plain.clone(), Ids::PerBatch) }),
    ];
    let mut cases = Vec::new();
    for (name, rotation) in rotations {
        for direction in [Direction::Forward, Direction::Inverse] {
            let problem = RopeProblem { direction, ..control.problem.clone() };
            let name = format!("{name}, {direction:?}");
            cases.push((name, Case::new(problem, rotation.clone())));
        }
    }
    let yarn = RopeConfig { rule: RopeRule::yarn_rotations(8.0), ..plain.clone() };
    let attention_scaling = yarn.frequencies(1).unwrap().attention_scaling();
    assert!(attention_scaling > 1.1, "a scaling that shows");
    for direction in [Direction::Forward, Direction::Inverse] {
        let problem = RopeProblem { direction, attention_scaling, ..control.problem.clone() };
        let rotation = Rotation::new(yarn.clone(), Ids::From(5));
        cases.push((format!("YaRN, {direction:?}"), Case::new(problem, rotation)));
    }
    for (path, aligned) in [("by four", true), ("by channel", false)] {
        let problem = RopeProblem { aligned, ..control.problem.clone() };
        let rotation = Rotation { xpos, ..Rotation::new(plain.clone(), Ids::From(60)) };
        cases.push((format!("xPos {path}"), Case::new(problem, rotation)));
    }
    run_table(&cases, Case::check);
}

/// A table that turns by −θ does what one that turns by θ undoes.
#[test]
fn backward_turns() {
    let undo = case(RopeProblem { direction: Direction::Inverse, ..control() });
    let mut back = case(control());
    back.rotation.config.direction = Turn::Backward;
    back.check().unwrap();
    let inputs = back.random();
    let [forward, backward] = [&undo, &back].map(|case| case.run(lab(), &inputs).unwrap());
    let [turned, as_it_was] = [&backward[0], &inputs[0]].map(|x| &x[32 * 20..]);
    assert_ne!(turned, as_it_was, "the rows of the last position turn");
    assert_eq!(forward, backward);
}

/// On a device that takes few workgroups along a dimension, a call folds into two.
#[test]
fn many_workgroups() {
    let control = case(control());
    let mut cases = Vec::new();
    // 64 places a workgroup: two quads of pairs and four of the tail for every row.
    for (batch, seq, groups) in [(1, 74u32, 7), (1, 75, 8), (2, 58, 12), (6, 80, 48)] {
        assert_eq!(batch * (6 * seq).div_ceil(64), groups, "the case is not what it says");
        assert!(groups <= NARROW_WORKGROUPS.pow(2));
        let shape = RopeShape { batch, seq };
        cases.push((format!("{groups} workgroups"), Case { shape, ..control.clone() }));
    }
    run_table(&cases, |case| case.check_on(narrow()));
}
