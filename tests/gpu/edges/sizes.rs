//! Sizes at the ends: none, one, a tile and one more or less, and one row of many keys.

use phasor::HeadMap;
use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::linear_attention::LinearAttentionShape;
use phasor_kit::tolerance::compare;

use crate::{
    attention::{Case, control},
    decode,
    harness::{lab, run_table},
    linear_attention, rope,
};

#[test]
fn none_one_and_around_a_tile() {
    let causal = Case::small(&control()).unwrap();
    let full = Case::small(&AttentionProblem { causal: false, ..control() }).unwrap();
    let (q, k) = (causal.plan.tile().block_q(), causal.plan.tile().block_k());
    let mut cases = Vec::new();
    for seq_q in [0, 1, q - 1, q, q + 1] {
        for seq_k in [0, 1, k - 1, k, k + 1] {
            for case in [&causal, &full] {
                let shape = AttentionShape::new(1, seq_q, seq_k);
                let name = format!("{seq_q} x {seq_k}, causal: {}", case.plan.problem().causal);
                cases.push((name, Case { shape, ..case.clone() }));
            }
        }
    }
    run_table(&cases, Case::check);
}

#[test]
fn other_kernels_of_none_one_and_around_a_tile() {
    let problem = phasor::rope::RopeProblem::new(2, 1, 16);
    let config = phasor::rotary::RopeConfig::new(16, 10_000.0);
    let rotation = crate::harness::Rotation::new(config, crate::harness::Ids::From(0));
    let case = rope::Case::new(problem, rotation);
    for seq in [0, 1, 63, 64, 65] {
        let mut case = case.clone();
        case.shape.seq = seq;
        case.check().unwrap();
    }
    let problem = linear_attention::Case::plain(2, 2, 32).unwrap();
    for seq in [0, 1, 31, 32, 33] {
        let mut case = linear_attention::Case::new(problem.clone());
        case.shape = LinearAttentionShape::new(1, seq);
        case.check().unwrap();
    }
}

/// The row that decides all is the last one.
#[test]
fn one_row_of_131072_keys() {
    const KEYS: u32 = 131_072;
    let mut case = Case::small(&control()).unwrap();
    case.shape = AttentionShape::new(1, 1, KEYS);
    case.check().unwrap();

    // Equal scores: the mean of so many is still within a few ulp.
    let mut inputs = case.inputs();
    inputs.q.fill(0.0);
    inputs.v.fill(0.75);
    let got = case.run(lab(), &inputs).unwrap();
    let (truth, lse) = ([0.75; 4 * 16], [f64::from(KEYS).ln(); 4]);
    compare("out", &got.out, &truth, &2e-6.into(), [1, 4, 1, 16]).unwrap();
    compare("lse", &got.lse.unwrap(), &lse, &2e-6.into(), [1, 4, 1, 1]).unwrap();

    decode::small(HeadMap::ropepp(2).unwrap(), 1, 16, &[KEYS]).check().unwrap();
}
