//! What softmax attention keeps, whatever the tile.

use phasor::DType;
use phasor::attention::{AttentionProblem, AttentionShape, BlockedTile};
use phasor_kit::tolerance::{Bound, compare};
use proptest::prelude::*;

use super::{close, property};
use crate::{
    attention::{Case, Inputs, control, small_blocks},
    harness::{Result, lab},
};

#[test]
fn values_of_one_give_one() {
    property((1..50u32, 1..50u32, any::<u16>()), |(seq_q, seq_k, seed)| {
        let shape =
            AttentionShape { query_offset: Some(0), ..AttentionShape::new(1, seq_q, seq_k) };
        let case = Case { shape, seed: seed.into(), size: 4.0, ..Case::small(&control())? };
        let mut inputs = case.inputs();
        inputs.v.fill(1.0);
        let got = case.run(lab(), &inputs)?;
        let truth = vec![1.0; got.out.len()];
        let naive = case.reference(&inputs)?;
        compare("out", &got.out, &truth, &naive.out, case.out_shape())?;
        // Twice four ulps is as loose as the bound may be, or it proves nothing.
        let loosest = Bound::Uniform(32.0 * f64::from(f32::EPSILON));
        compare("out", &got.out, &truth, &loosest, case.out_shape())?;
        Ok(())
    });
}

/// Keys in another order, with their values.
#[test]
fn full_attention_does_not_know_the_order_of_keys() {
    let full = AttentionProblem { causal: false, ..control() };
    property((1..50u32, 1..50u32, any::<u16>()), |(seq_q, seq_k, seed)| {
        let shape = AttentionShape::new(1, seq_q, seq_k);
        let case = Case { shape, seed: seed.into(), ..Case::small(&full)? };
        let inputs = case.inputs();
        let backwards = |x: &[f32]| x.chunks_exact(16).rev().flatten().copied().collect::<Vec<_>>();
        let other =
            Inputs { q: inputs.q.clone(), k: backwards(&inputs.k), v: backwards(&inputs.v) };
        let outcomes = [&case.run(lab(), &inputs)?, &case.run(lab(), &other)?];
        close(&case, outcomes, [&case.reference(&inputs)?, &case.reference(&other)?])
    });
}

#[test]
fn tiles_agree() {
    let tall = BlockedTile { tx: 2, ty: 8, row_pairs: 2, ..small_blocks(24) };
    let streamed =
        BlockedTile { q_resident: false, chunk_units: 2, pv_apart: false, ..small_blocks(24) };
    let problem = crate::attention::tiles::problem;
    property((1..60u32, 1..60u32, any::<u16>()), |(seq_q, seq_k, seed)| {
        let shape = AttentionShape::new(1, seq_q, seq_k);
        let with = |tile| {
            let problem = problem(control().heads);
            Ok::<_, phasor::Error>(Case {
                shape,
                seed: seed.into(),
                ..Case::tiled(&problem, tile)?
            })
        };
        let cases = [with(tall)?, with(streamed)?, with(small_blocks(24))?];
        let inputs = cases[0].inputs();
        let reference = cases[0].reference(&inputs)?;
        let first = cases[0].run(lab(), &inputs)?;
        for case in &cases[1..] {
            let other = case.run(lab(), &inputs)?;
            close(case, [&first, &other], [&reference, &reference])?;
        }
        Ok(())
    });
}

/// The log-sum-exp is that of the scores: all of them moved by a constant, it moves by as much and
/// the output not at all. A key that is the same everywhere moves them so.
#[test]
fn the_log_sum_exp_of_equal_scores_is_known() {
    property((1..50u32, 1..50u32), |(seq_q, seq_k)| {
        let full = AttentionProblem { causal: false, ..control() };
        let case = Case { shape: AttentionShape::new(1, seq_q, seq_k), ..Case::small(&full)? };
        let mut inputs = case.inputs();
        inputs.k.fill(0.0);
        let got = case.run(lab(), &inputs)?;
        let lse = got.lse.ok_or("no log-sum-exp")?;
        let truth = vec![f64::from(seq_k).ln(); lse.len()];
        let naive: Vec<f32> = truth.iter().map(|&x| x as f32).collect();
        let bound = Bound::computed(&naive, &truth, DType::F32);
        compare("lse", &lse, &truth, &bound, [1, 4, seq_q, 1])?;
        Result::Ok(())
    });
}
