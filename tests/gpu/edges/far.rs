//! Numbers far out: biases, sinks and log-sum-exps of any finite size, and whatever a hook gives,
//! alike in attention, decode (with one split and more) and merge.

use phasor::attention::AttentionProblem;
use phasor::decode::Tile;
use phasor::{Bias, DType, HeadMap, ScoreHook};
use phasor_kit::tolerance::Bound;

use super::hold;
use crate::{
    attention::{Case, control, variants::EDGY},
    decode,
    harness::{Result, lab, run_table},
    merge,
};

/// Log-sum-exps far out apart from the others, which would have no bound beside them.
fn hold_lse(got: &[f32], truth: &[f64], naive: &[f32]) -> Result {
    for far in [false, true] {
        let one = |n: usize| (truth[n].abs() > 1e30 && truth[n].is_finite()) == far;
        let which: Vec<usize> = (0..truth.len()).filter(|&n| one(n)).collect();
        let got: Vec<f32> = which.iter().map(|&n| got[n]).collect();
        let truth: Vec<f64> = which.iter().map(|&n| truth[n]).collect();
        let naive: Vec<f32> = which.iter().map(|&n| naive[n]).collect();
        let bound = Bound::computed(&naive, &truth, DType::F32);
        hold("lse", &got, &truth, &bound, [1, 1, 1, which.len() as u32])?;
    }
    Ok(())
}

pub fn attend(case: &Case) -> Result {
    let inputs = case.inputs();
    let got = case.run(lab(), &inputs)?;
    let reference = case.reference(&inputs)?;
    hold("out", &got.out, &reference.truth.out, &reference.out, case.out_shape())?;
    hold_lse(&got.lse.ok_or("no lse")?, &reference.truth.lse, &reference.naive_lse)
}

pub fn decoded(case: &decode::Case) -> Result {
    let inputs = case.inputs()?;
    let got = case.run(&inputs)?;
    let (truth, naive) = (case.reference::<f64>(&inputs)?, case.reference::<f32>(&inputs)?);
    let bound = Bound::computed(&naive.out, &truth.out, DType::F32);
    hold("out", &got.out, &truth.out, &bound, [1, 1, 1, got.out.len() as u32])?;
    hold_lse(&got.lse, &truth.lse, &naive.lse)
}

/// Four rows over sequences whose keys three splits cannot share evenly.
pub fn few_rows(twist: impl FnOnce(&mut decode::Case)) -> decode::Case {
    let mut case = decode::small(HeadMap::ropepp(4).unwrap(), 2, 16, &[4, 37, 70]);
    (case.seq_q, case.tile) = (4, Some(Tile::new(16, 1, 2)));
    twist(&mut case);
    case
}

/// Runs both, decode with one split and with three.
fn both(
    cases: Vec<(String, AttentionProblem, Option<f32>)>,
    twist: impl Fn(&mut decode::Case, &AttentionProblem),
) {
    let mut prefill = Vec::new();
    let mut decoding = Vec::new();
    for (name, problem, bias_filler) in cases {
        let case = Case::quick(&problem).unwrap();
        prefill.push((name.clone(), Case { bias_filler, bias_extent: [2, 4, 37], ..case }));
        for splits in [1, 3] {
            let case = few_rows(|c| {
                (c.splits, c.bias_filler, c.bias_extent) = (Some(splits), bias_filler, [3, 8, 4]);
                twist(c, &problem);
            });
            decoding.push((format!("{name}, decode, {splits} splits"), case));
        }
    }
    run_table(&prefill, attend);
    run_table(&decoding, decoded);
}

/// The most negative numbers of f16 and f32, numbers that masks are made of, and the largest.
const FILLERS: [f32; 7] = [-65504.0, -1e9, -1e30, -1e38, -3e38, f32::MIN, f32::MAX];

#[test]
fn biases_of_any_finite_size() {
    let problem = AttentionProblem { bias: Some(Bias::Additive), ..control() };
    let cases = FILLERS.map(|x| (format!("{x:e}"), problem.clone(), Some(x)));
    both(cases.to_vec(), |c, _| c.problem.bias = Some(Bias::Additive));
}

const SINKS: [f32; 8] = [f32::MIN, -3e38, 3e38, f32::MAX, -1e38, 1e38, 0.5, f32::NEG_INFINITY];

/// Four of the sinks. Padding leaves nothing else to the rows of the first sequence.
pub fn sunk(first: usize) -> phasor::Result<Case> {
    let sinks = SINKS[first..first + 4].to_vec();
    let case = Case::quick(&AttentionProblem { sinks, ..control() })?;
    Ok(Case { kv_lens: Some(vec![0, 43]), ..case })
}

/// All of the sinks. Two rows of the first sequence are before its keys.
pub fn sunk_rows(splits: u32) -> decode::Case {
    few_rows(|c| {
        (c.problem.sinks, c.splits) = (SINKS.to_vec(), Some(splits));
        c.lens[0] = 2;
    })
}

#[test]
fn sinks_of_any_finite_size() {
    let prefill = [0, 4].map(|first| (format!("sinks from {first}"), sunk(first).unwrap()));
    run_table(&prefill, attend);
    let rows = [1, 3].map(|splits| (format!("{splits} splits"), sunk_rows(splits)));
    run_table(&rows, decoded);
}

#[test]
fn whatever_a_hook_gives() {
    let score_mod = Some(ScoreHook::new(EDGY).unwrap());
    let hooks = AttentionProblem { score_mod, ..control() };
    let biased = AttentionProblem { bias: Some(Bias::Additive), ..hooks.clone() };
    let cases = vec![("hook".into(), hooks, None), ("hook and bias".into(), biased, None)];
    both(cases, |c, problem| {
        (c.problem.score_mod, c.problem.bias) = (problem.score_mod.clone(), problem.bias);
    });
}

/// Parts, and sinks beside them, of any finite size.
#[test]
fn parts_of_any_finite_size() {
    for (parts, sinks) in [(1, vec![]), (2, vec![]), (9, vec![]), (3, vec![f32::MIN, 3e38, 0.0])] {
        let mut case = merge::Case::new(parts, 8);
        case.problem.sinks = sinks;
        merged(&case).unwrap();
    }
}

/// Rows of far parts alone, of one of them, and of none; empty parts among them.
pub fn merged(case: &merge::Case) -> Result {
    let far = [-3e38, 3e38, f32::MIN, f32::MAX, -1.8e38, 1.6e38];
    let (x, mut lses) = case.parts();
    for (n, lse) in lses.iter_mut().enumerate() {
        *lse = match n % 30 {
            row @ 0..12 => far[(row + n / 30 * 5) % far.len()],
            row @ 12..20 if n / 30 == 0 => far[row % far.len()],
            20..24 if n / 30 % 2 == 1 => f32::NEG_INFINITY,
            _ => *lse,
        };
    }
    let got = case.run(&x, &lses)?;
    let (truth, naive) = (case.reference::<f64>(&x, &lses)?, case.reference::<f32>(&x, &lses)?);
    let bound = Bound::computed(&naive.out, &truth.out, DType::F32);
    hold("out", &got.out, &truth.out, &bound, [1, 1, 1, got.out.len() as u32])?;
    hold_lse(&got.lse, &truth.lse, &naive.lse)
}
