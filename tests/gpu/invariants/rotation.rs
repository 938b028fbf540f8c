//! What rotations keep, and how the imaginary attention follows from the real one.

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::rope::{Direction, RopeProblem, RopeShape};
use phasor::rotary::{Pairing, RopeConfig, RopeRule};
use phasor::{DType, HeadMap, oracle};
use phasor_kit::tolerance::{Bound, compare};
use proptest::prelude::*;

use super::{close, property};
use crate::{
    attention::{Case, Inputs, Outcome, Reference, control},
    harness::{Ids, Result, Rotation, lab, widened},
    rope,
};

fn pairing() -> impl Strategy<Value = Pairing> {
    prop_oneof![Just(Pairing::Half), Just(Pairing::Interleaved), Just(Pairing::InterleavedToHalf)]
}

fn rotating(pairing: Pairing, first: u32) -> Result<rope::Case> {
    let config = RopeConfig { rotary_dim: 16, pairing, ..RopeConfig::new(32, 10_000.0) };
    let problem = RopeProblem { rotary_dim: 16, pairing, ..RopeProblem::new(3, 1, 32) };
    let case = rope::Case::new(problem, Rotation::new(config, Ids::From(first)));
    Ok(rope::Case { shape: RopeShape { batch: 1, seq: 19 }, ..case })
}

#[test]
fn rotation_keeps_the_length_of_every_pair() {
    property((pairing(), 0..100u32, any::<u16>()), |(pairing, first, seed)| {
        let case = rope::Case { seed: seed.into(), ..rotating(pairing, first)? };
        let inputs = case.random();
        let [rotated, _] = case.run(lab(), &inputs)?;
        let lengths = |x: &[f64], members: fn(Pairing, u32, u32) -> (u32, u32)| {
            let length = |row: &[f64], pair| {
                let (a, b) = members(pairing, pair, 16);
                row[a as usize].hypot(row[b as usize])
            };
            x.chunks_exact(32).flat_map(|row| (0..8).map(move |pair| length(row, pair))).collect()
        };
        let truth: Vec<f64> = lengths(&widened(&inputs[0]), Pairing::input);
        let got: Vec<f64> = lengths(&widened(&rotated), Pairing::output);
        let rounded = case.rotation.rounded(false)?;
        let naive = oracle::rope(&inputs[0], [1, 3, 19, 32], 16, pairing, rounded)?;
        let naive: Vec<f64> = lengths(&widened(&naive), Pairing::output);
        let naive: Vec<f32> = naive.into_iter().map(|x| x as f32).collect();
        let bound = Bound::computed(&naive, &truth, DType::F32);
        compare("lengths", &got, &truth, &bound, [1, 3, 19, 8])?;
        Ok(())
    });
}

#[test]
fn rotating_there_and_back_is_nothing() {
    property(
        (pairing(), any::<bool>(), 0..100u32, any::<u16>()),
        |(pairing, scaled, first, seed)| {
            let mut there = rope::Case { seed: seed.into(), ..rotating(pairing, first)? };
            if scaled {
                there.rotation.config.rule = RopeRule::yarn_rotations(8.0);
                there.problem.attention_scaling = there.rotation.frequencies()?.attention_scaling();
            }
            let problem = RopeProblem { direction: Direction::Inverse, ..there.problem.clone() };
            let back = rope::Case { problem, ..there.clone() };
            let inputs = there.random();
            let outputs = back.run(lab(), &there.run(lab(), &inputs)?)?;
            for (x, (got, heads)) in inputs.iter().zip(outputs.iter().zip([3, 1])) {
                let shape = [1, heads, 19, 32];
                let naive = oracle::rope(x, shape, 16, pairing, there.rotation.rounded(false)?)?;
                let gain = there.problem.attention_scaling.powi(-2) as f32;
                let rounded = there.rotation.rounded(false)?;
                let undone = |b, s, pair| {
                    let (cos, sin) = rounded(b, s, pair);
                    (cos * gain, sin * gain)
                };
                let naive = oracle::unrope(&naive, shape, 16, pairing, undone)?;
                let truth = widened(x);
                compare("x", got, &truth, &Bound::computed(&naive, &truth, DType::F32), shape)?;
            }
            Ok(())
        },
    );
}

/// Keys rotated by the rope kernel and queries by the attention kernel, both from position `first`.
fn attend_from(first: u32, case: &Case, inputs: &Inputs) -> Result<(Outcome, Reference)> {
    let rotation = Rotation::new(RopeConfig::new(16, 10_000.0), Ids::From(first));
    let keys = rope::Case {
        shape: RopeShape { batch: 1, seq: case.shape.seq_k },
        ..rope::Case::new(RopeProblem::new(1, 0, 16), rotation.clone())
    };
    let [k, _] = keys.run(lab(), &[inputs.k.clone(), Vec::new()])?;
    let case = Case { rotation: Some(rotation.clone()), ..case.clone() };
    let outcome = case.run(lab(), &Inputs { k, ..inputs.clone() })?;

    let turn = |x: &[f32], heads| {
        let shape = [1, heads, x.len() as u32 / 16 / heads, 16];
        let exact = rotation.exact(false)?;
        let rounded = rotation.rounded(false)?;
        Ok::<_, Box<dyn std::error::Error>>((
            oracle::rope(&widened(x), shape, 16, Pairing::Half, exact)?,
            oracle::rope(x, shape, 16, Pairing::Half, rounded)?,
        ))
    };
    let (exact_q, q) = turn(&inputs.q, 2)?;
    let (exact_k, k) = turn(&inputs.k, 1)?;
    let exact = [exact_q, exact_k, widened(&inputs.v)];
    let reference = case.judge(&exact, &Inputs { q, k, v: inputs.v.clone() })?;
    case.hold(&outcome, &reference)?;
    Ok((outcome, reference))
}

#[test]
fn scores_depend_on_the_distance_alone() {
    let problem = AttentionProblem { rotate_q: true, ..control() };
    property((0..100u32, 0..100u32, any::<u16>()), |(first, other, seed)| {
        let shape = AttentionShape::new(1, 23, 23);
        let case = Case { shape, seed: seed.into(), ..Case::small(&problem)? };
        let inputs = case.inputs();
        let (here, bound_here) = attend_from(first, &case, &inputs)?;
        let (there, bound_there) = attend_from(other, &case, &inputs)?;
        close(&case, [&here, &there], [&bound_here, &bound_there])
    });
}

/// From the kernel of two streams as well as from that of one.
#[test]
fn imaginary_attention_is_the_real_one_of_the_turned_query() {
    let with = |heads: HeadMap| AttentionProblem { heads, ..control() };
    property((1..40u32, 1..40u32, any::<u16>()), |(seq_q, seq_k, seed)| {
        let shape = AttentionShape::new(1, seq_q, seq_k);
        let of = |heads| {
            Ok::<_, phasor::Error>(Case { shape, seed: seed.into(), ..Case::small(&with(heads))? })
        };
        let imaginary = of(HeadMap::imago(2)?)?;
        let real = of(HeadMap::plain(2)?)?;
        let both = of(HeadMap::ropepp(2)?)?;
        let inputs = imaginary.inputs();
        // Turning by −π/2 moves and negates numbers, which is exact: (a, b) becomes (b, −a).
        let q_shape = [1, 2, seq_q, 16];
        let heads = imaginary.plan.problem().heads.heads().to_vec();
        let turned = oracle::output_queries(&inputs.q, q_shape, 16, Pairing::Half, &heads)?;
        let turned = Inputs { q: turned, ..inputs.clone() };

        let expected = real.run(lab(), &turned)?;
        let bound = real.reference(&turned)?;
        let alone = imaginary.run(lab(), &inputs)?;
        close(&real, [&expected, &alone], [&bound, &imaginary.reference(&inputs)?])?;

        let interleaved = both.run(lab(), &inputs)?;
        let odd = |x: &[f32], row: usize| {
            let heads = x.chunks_exact(seq_q as usize * row).skip(1).step_by(2);
            heads.flatten().copied().collect::<Vec<_>>()
        };
        let beside = Outcome {
            out: odd(&interleaved.out, 16),
            lse: interleaved.lse.as_deref().map(|lse| odd(lse, 1)),
        };
        close(&real, [&expected, &beside], [&bound, &both.reference(&inputs)?])
    });
}
