//! The same bits wherever tensors lie, and whatever batch a sequence is part of: all kernels but
//! decode, which has its own in `decode/invariants.rs`.

use phasor::HeadMap;
use phasor::linear_attention::{LinearAttentionProblem, LinearAttentionShape};
use phasor::rope::{RopeProblem, RopeShape};
use phasor::rotary::RopeConfig;

use super::bitwise::same;
use crate::{
    attention::{self, Places, control},
    harness::{Ids, Place, Result, Rotation, lab},
    linear_attention, rope,
};

const PLACES: [Place; 4] = [Place::Bhsd, Place::Bshd, Place::Gaps, Place::BshdGaps];

#[test]
fn attention_does_not_see_where_its_tensors_lie() {
    let with = |places| {
        Ok::<_, phasor::Error>(attention::Case { places, ..attention::Case::small(&control())? })
    };
    let at = |q, k, v, out| Places { q, k, v, out };
    let [bhsd, bshd, gaps, bshd_gaps] = PLACES;
    let packed = |all, first| Place::Packed { all, first };
    let check = || -> Result {
        let case = with(at(bhsd, bhsd, bhsd, bhsd))?;
        let inputs = case.inputs();
        let wanted = case.run(lab(), &inputs)?;
        for places in [
            at(bshd, bshd, bshd, bshd),
            at(gaps, bshd_gaps, bhsd, gaps),
            at(packed(7, 1), packed(7, 4), packed(7, 6), bshd_gaps),
        ] {
            let got = with(places)?.run(lab(), &inputs)?;
            same(&format!("{places:?}"), &got.out, &wanted.out)?;
            same(
                "lse",
                got.lse.as_deref().unwrap_or_default(),
                wanted.lse.as_deref().unwrap_or_default(),
            )?;
        }
        Ok(())
    };
    check().unwrap();
}

#[test]
fn rotation_sees_neither_places_nor_batch() {
    let check = || -> Result {
        let problem = RopeProblem { rotary_dim: 16, ..RopeProblem::new(3, 1, 32) };
        let config = RopeConfig { rotary_dim: 16, ..RopeConfig::new(32, 10_000.0) };
        let mut case = rope::Case::new(problem, Rotation::new(config, Ids::From(7)));
        let inputs = case.random();
        (case.inputs, case.outputs) = ([Place::Bhsd; 2], [Place::Bhsd; 2]);
        let wanted = case.run(lab(), &inputs)?;
        for place in PLACES {
            let other = rope::Case { inputs: [place; 2], outputs: [place; 2], ..case.clone() };
            let got = other.run(lab(), &inputs)?;
            for (got, wanted) in got.iter().zip(&wanted) {
                same(&format!("{place:?}"), got, wanted)?;
            }
        }
        let half = |x: &[Vec<f32>; 2], b: usize| {
            x.each_ref().map(|x| x[b * x.len() / 2..(b + 1) * x.len() / 2].to_vec())
        };
        let shape = RopeShape { batch: 1, ..case.shape };
        for b in 0..2 {
            let alone = rope::Case { shape, ..case.clone() }.run(lab(), &half(&inputs, b))?;
            for (got, wanted) in alone.iter().zip(&half(&wanted, b)) {
                same("alone", got, wanted)?;
            }
        }
        Ok(())
    };
    check().unwrap();
}

#[test]
fn linear_attention_sees_neither_places_nor_batch() {
    let check = || -> Result {
        let problem = LinearAttentionProblem::new(HeadMap::plain(2)?, 1, 16);
        let rotation = Rotation::new(RopeConfig::new(16, 10_000.0), Ids::From(0));
        let case = linear_attention::Case {
            rotation: Some(rotation),
            ..linear_attention::Case::new(problem)
        };
        let inputs = case.random();
        let (wanted, _) = case.run(lab(), &inputs, None)?;
        same("again", &case.run(lab(), &inputs, None)?.0, &wanted)?;
        for place in PLACES {
            let other = linear_attention::Case { places: [place; 4], ..case.clone() };
            same(&format!("{place:?}"), &other.run(lab(), &inputs, None)?.0, &wanted)?;
        }
        for b in 0..2 {
            let half = |x: &Vec<f32>| x[b * x.len() / 2..(b + 1) * x.len() / 2].to_vec();
            let shape = LinearAttentionShape { batch: 1, ..case.shape };
            let alone = linear_attention::Case { shape, ..case.clone() };
            let (got, _) = alone.run(lab(), &inputs.each_ref().map(half), None)?;
            same("alone", &got, &half(&wanted))?;
        }
        Ok(())
    };
    check().unwrap();
}
