//! The table: feature maps, dimensions, heads, pairings, storage, lengths.

use phasor::linear_attention::{
    Directions, FeatureHook, FeatureMap, LinearAttentionProblem, LinearAttentionShape,
};
use phasor::rotary::{Axial2d, Pairing, PositionAxes, RopeConfig, Xpos};
use phasor::{DType, HeadMap, OutputHead, Phase};

use super::{Case, SOFTPLUS};
use crate::harness::{Ids, Place, Result, Rotation, narrow, run_table};

/// The table in quarters, so that two devices share it: what one kernel computes is in one of them.
fn quarter(n: usize) {
    let cases = cases().unwrap();
    let [causal, full] = [0, 1].map(|i| cases[i].1.problem.clone());
    let of = |i: usize, case: &Case| match &case.problem {
        problem if *problem == causal => 0,
        problem if *problem == full => 1,
        _ => 2 + i % 2,
    };
    let mine = cases.iter().enumerate().filter(|(i, (_, case))| of(*i, case) == n);
    run_table(mine.map(|(_, case)| case), Case::check);
}

#[test]
fn outputs_are_the_sums_that_define_them_1_of_4() {
    quarter(0);
}

#[test]
fn outputs_are_the_sums_that_define_them_2_of_4() {
    quarter(1);
}

#[test]
fn outputs_are_the_sums_that_define_them_3_of_4() {
    quarter(2);
}

#[test]
fn outputs_are_the_sums_that_define_them_4_of_4() {
    quarter(3);
}

/// On a device with the least that WebGPU promises, and few workgroups a dimension.
#[test]
fn least_devices_give_the_same() {
    let mut case = Case::new(Case::plain(2, 1, 16).unwrap());
    case.shape = LinearAttentionShape::new(1, 150);
    case.check_on(narrow()).unwrap();
}

fn cases() -> Result<Vec<(String, Case)>> {
    let mut all: Vec<(String, Case)> = Vec::new();
    let mut add = |name: &str, case: Case| all.push((name.to_owned(), case));
    let plain = Case::plain(2, 2, 32)?;
    let with = |problem: LinearAttentionProblem| Case::new(problem);
    let full = LinearAttentionProblem { causal: false, ..plain.clone() };

    add("causal", with(plain.clone()));
    add("full", with(full.clone()));
    for seq in [1, 31, 32, 33, 64, 65, 129] {
        let shape = LinearAttentionShape::new(1, seq);
        add(&format!("{seq} tokens"), Case { shape, ..with(plain.clone()) });
        add(&format!("{seq} tokens, full"), Case { shape, ..with(full.clone()) });
    }
    for (seq_q, seq_k) in [(5, 90), (90, 5), (3, 0)] {
        let shape = LinearAttentionShape { batch: 2, seq_q, seq_k, resume: false };
        add(&format!("{seq_q} queries, {seq_k} keys"), Case { shape, ..with(full.clone()) });
    }
    for (head_dim, value_dim) in [(4, 4), (12, 20), (80, 128), (256, 36)] {
        let problem = LinearAttentionProblem { value_dim, ..Case::plain(1, 1, head_dim)? };
        add(&format!("D {head_dim}, D_v {value_dim}"), with(problem));
    }
    let phase = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let phases = HeadMap::new(4, vec![phase(3, 0.4), phase(0, -2.0), phase(3, 1.0)])?;
    for (pairing, rotary_dim, heads) in [
        (Pairing::Half, 12, HeadMap::ropepp(2)?),
        (Pairing::Interleaved, 10, HeadMap::ropepp(2)?),
        (Pairing::InterleavedToHalf, 32, phases),
        (Pairing::HalfBlocks(2), 12, HeadMap::ropepp(2)?),
    ] {
        let name = format!("{pairing:?}, {rotary_dim} rotate, outputs of {heads:?}");
        let problem = LinearAttentionProblem { pairing, rotary_dim, heads, ..plain.clone() };
        add(&name, with(problem));
    }
    let custom = FeatureMap::Custom(FeatureHook::new(SOFTPLUS)?);
    let hooked = LinearAttentionProblem { feature_map: custom, rotary_dim: 0, ..plain.clone() };
    add("a hook, and nothing rotates", with(hooked));
    let halves = |problem| LinearAttentionProblem {
        q_dtype: DType::F16,
        kv_dtype: DType::F16,
        out_dtype: DType::F16,
        ..problem
    };
    add("f16, grouped heads", with(halves(Case::plain(6, 2, 32)?)));
    for (features, head_dim, directions, causal) in
        [(100, 32, Directions::Orthogonal, true), (64, 20, Directions::Independent, false)]
    {
        let problem = LinearAttentionProblem {
            feature_map: FeatureMap::Favor { features, key_offset: 1.5 },
            rotary_dim: features,
            causal,
            ..Case::plain(4, 2, head_dim)?
        };
        // One of them in f16, which their first passes read.
        let problem = if causal { problem } else { halves(problem) };
        let case = Case { directions, ..with(problem) };
        add(&format!("FAVOR+, {features} features of {head_dim} channels"), case);
    }

    let config = RopeConfig { pairing: Pairing::Half, ..RopeConfig::new(32, 500.0) };
    let xpos = Rotation {
        xpos: Some(Xpos { scale_base: 64.0, centre: 40, gamma: 0.4 }),
        ..Rotation::new(config.clone(), Ids::From(3))
    };
    add("xPos", Case { rotation: Some(xpos), ..with(plain.clone()) });
    let axes = PositionAxes::Axial2d(Axial2d::Blocks);
    let image = Rotation::new(RopeConfig { axes, ..config }, Ids::PerBatch);
    add("two axes", Case { rotation: Some(image), ..with(full) });
    for places in [[Place::Bhsd; 4], [Place::Bshd; 4], [Place::Odd(4); 4]] {
        add(&format!("{:?}", places[0]), Case { places, ..with(plain.clone()) });
    }
    Ok(all)
}
