//! Attention of numbers at the edge.

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::{Bias, DType, MaskHook};
use phasor_kit::tolerance::{Bound, compare};

use super::{hold, untouched};
use crate::{
    attention::{Case, Inputs, control, variants::STRIPES},
    harness::{Result, lab, run_table},
};

/// One number of q, k or v.
#[derive(Debug, Clone, Copy)]
enum At {
    Q,
    K,
    V,
}

/// Puts `x` in batch 1, the last head, this row and channel 5.
fn put(case: &Case, inputs: &mut Inputs, at: At, row: usize, x: f32) {
    let p = case.plan.problem();
    let AttentionShape { batch, seq_q, seq_k, .. } = case.shape;
    let (data, heads, rows, dim) = match at {
        At::Q => (&mut inputs.q, p.heads.q_heads(), seq_q, p.head_dim),
        At::K => (&mut inputs.k, p.kv_heads, seq_k, p.head_dim),
        At::V => (&mut inputs.v, p.kv_heads, seq_k, p.value_dim),
    };
    let plane = ((batch.min(2) - 1) * heads + heads - 1) as usize;
    data[(plane * rows as usize + row) * dim as usize + 5] = x;
}

/// The run with `x` there is NaN or infinite exactly where the formula is, and of NaNs, nothing
/// else moves by a bit.
fn spreads(case: &Case, at: At, row: usize, x: f32) -> Result {
    let clean = case.inputs();
    let mut inputs = clean.clone();
    put(case, &mut inputs, at, row, x);
    let got = case.run(lab(), &inputs)?;
    let reference = case.reference(&inputs)?;
    let shape = case.out_shape();
    hold("out", &got.out, &reference.truth.out, &reference.out, shape)?;
    let lse = got.lse.ok_or("no lse")?;
    let rows = [shape[0], shape[1], shape[2], 1];
    hold("lse", &lse, &reference.truth.lse, &reference.lse, rows)?;
    if x.is_nan() {
        let clean = case.run(lab(), &clean)?;
        untouched("out", &got.out, &clean.out, &reference.truth.out)?;
    }
    Ok(())
}

/// The control in both kernels; what more there is, their common files do.
fn problems() -> Vec<(&'static str, Case)> {
    let case = |problem: AttentionProblem| Case::quick(&problem).unwrap();
    let mask_mod = Some(MaskHook::new(STRIPES).unwrap());
    let prefix = case(AttentionProblem { prefix: true, ..control() });
    vec![
        ("causal", case(control())),
        ("causal, in workgroup memory", Case::small(&control()).unwrap()),
        ("a window", case(AttentionProblem { window: Some(9), ..control() })),
        ("padded", Case { kv_lens: Some(vec![40, 43]), ..case(control()) }),
        ("a bias", case(AttentionProblem { bias: Some(Bias::Additive), ..control() })),
        ("a mask", case(AttentionProblem { bias: Some(Bias::Mask), ..control() })),
        ("a prefix", Case { prefix_lens: Some(vec![5, 16]), ..prefix }),
        ("a hook", case(AttentionProblem { mask_mod, ..control() })),
        ("sinks", case(AttentionProblem { sinks: vec![0.5; 4], ..control() })),
    ]
}

#[test]
pub fn a_nan_spoils_what_sees_it_and_nothing_else() {
    let mut cases = Vec::new();
    for (name, case) in problems() {
        for (at, row) in [(At::Q, 20), (At::K, 12), (At::K, 42), (At::V, 12), (At::V, 42)] {
            // Stripes show batch 1 every third key alone.
            cases.push((format!("{name}, {at:?} {row}"), (case.clone(), at, row)));
        }
    }
    run_table(&cases, |(case, at, row)| spreads(case, *at, *row, f32::NAN));
}

/// A score of −∞ counts as masked, one of +∞ makes its row NaN; an infinite value comes out where
/// its key has a weight.
#[test]
fn infinities_are_the_formulas() {
    let mut cases = Vec::new();
    for (name, case) in &problems()[..5] {
        for (at, row) in [(At::Q, 20), (At::K, 12), (At::V, 12), (At::V, 42)] {
            for x in [f32::INFINITY, f32::NEG_INFINITY] {
                cases.push((format!("{name}, {at:?} {row}: {x}"), (case.clone(), at, row, x)));
            }
        }
    }
    run_table(&cases, |(case, at, row, x)| spreads(case, *at, *row, *x));
}

#[test]
fn rows_whose_scores_are_all_minus_infinity_are_empty() {
    let case = Case::small(&AttentionProblem { causal: false, ..control() }).unwrap();
    let mut inputs = case.inputs();
    // Members of a pair are 8 apart: both scores of these queries and keys are −∞.
    inputs.q.fill(1.0);
    inputs.k.fill(0.0);
    inputs.k.chunks_exact_mut(16).for_each(|key| key[3] = f32::NEG_INFINITY);
    inputs.v.fill(f32::NAN);
    let got = case.run(lab(), &inputs).unwrap();
    assert!(got.out.iter().all(|&x| x == 0.0), "{:?}", &got.out[..8]);
    assert!(got.lse.unwrap().iter().all(|&x| x == f32::NEG_INFINITY));
}

#[test]
fn hidden_rows_are_zero_whatever_they_hide() {
    let early = AttentionShape { query_offset: Some(-37), ..AttentionShape::new(2, 37, 43) };
    let mut hidden =
        Case::quick(&AttentionProblem { bias: Some(Bias::Mask), ..control() }).unwrap();
    hidden.shape = early;
    let causal = Case { shape: early, ..Case::small(&control()).unwrap() };
    let none = Case { kv_lens: Some(vec![0, 0]), ..Case::small(&control()).unwrap() };
    for case in [causal, none, hidden] {
        let mut inputs = case.inputs();
        inputs.k.fill(f32::INFINITY);
        inputs.v.fill(f32::NAN);
        let got = case.run(lab(), &inputs).unwrap();
        assert!(got.out.iter().all(|&x| x == 0.0));
        assert!(got.lse.unwrap().iter().all(|&x| x == f32::NEG_INFINITY));
    }
}

#[test]
fn equal_scores_give_the_mean() {
    let case = Case::small(&AttentionProblem { causal: false, ..control() }).unwrap();
    let mut inputs = case.inputs();
    inputs.q.fill(0.0);
    let got = case.run(lab(), &inputs).unwrap();
    let (rows, dim) = (case.shape.seq_k as usize, 16);
    for (b, values) in inputs.v.chunks_exact(rows * dim).enumerate() {
        for c in 0..dim {
            let column = values.iter().skip(c).step_by(dim);
            let mean = column.map(|&x| f64::from(x)).sum::<f64>() / rows as f64;
            let [_, heads, seq_q, _] = case.out_shape().map(|n| n as usize);
            for row in 0..heads * seq_q {
                let x = f64::from(got.out[((b * heads * seq_q) + row) * dim + c]);
                assert!((x - mean).abs() < 1e-6, "{x}, not {mean}");
            }
        }
    }
    for lse in got.lse.unwrap() {
        assert!((f64::from(lse) - (rows as f64).ln()).abs() < 1e-6);
    }
}

/// Scores of ±1e4 and more, where all but the best key or two have no weight.
#[test]
fn scores_of_thousands() {
    for problem in [control(), AttentionProblem { causal: false, ..control() }] {
        let case = Case { size: 150.0, ..Case::small(&problem).unwrap() };
        let reference = case.reference(&case.inputs()).unwrap();
        let largest = reference.truth.lse.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        assert!(largest > 1e4, "{largest}");
        case.check().unwrap();
    }
    // And beyond what f32 holds: a row whose scores overflow is NaN or one key's, and no other
    // moves.
    let case = Case::small(&control()).unwrap();
    let clean = case.run(lab(), &case.inputs()).unwrap();
    let mut inputs = case.inputs();
    put(&case, &mut inputs, At::Q, 20, 3e38);
    let got = case.run(lab(), &inputs).unwrap();
    let row = |n: usize| n / 16 % 37 == 20 && n / (16 * 37) >= 4;
    for (n, (got, clean)) in got.out.iter().zip(&clean.out).enumerate() {
        assert!(row(n) || got.to_bits() == clean.to_bits(), "{n}");
    }
}

/// No sink: the bits of a softmax without one, from the shader that has them.
#[test]
fn a_sink_of_minus_infinity_is_none() {
    let with = |sink| {
        let problem = AttentionProblem { sinks: vec![sink; 4], ..control() };
        let case = Case::quick(&problem).unwrap();
        case.run(lab(), &case.inputs()).unwrap()
    };
    let case = Case::quick(&control()).unwrap();
    let plain = case.run(lab(), &case.inputs()).unwrap();
    assert_eq!(with(f32::NEG_INFINITY), plain);
    assert_ne!(with(0.0), plain);
}

/// Denormals may count as zero: results are off by no more than the smallest normal number.
#[test]
fn denormals_are_kept_or_zero() {
    for (dtype, smallest) in [(DType::F32, f32::MIN_POSITIVE), (DType::F16, 6.104e-5)] {
        let problem =
            AttentionProblem { q_dtype: dtype, kv_dtype: dtype, out_dtype: dtype, ..control() };
        let case = Case::quick(&problem).unwrap();
        let mut inputs = case.inputs();
        let round =
            |x: &mut f32| *x = phasor_kit::tolerance::stored(&[*x * smallest / 4.0], dtype)[0];
        inputs.v.iter_mut().for_each(round);
        assert!(inputs.v.iter().any(|x| *x != 0.0 && x.abs() < smallest));
        let got = case.run(lab(), &inputs).unwrap();
        let truth = case.reference(&inputs).unwrap().truth;
        compare("out", &got.out, &truth.out, &f64::from(smallest).into(), case.out_shape())
            .unwrap();
        // In q and k they are as good as zeros.
        let mut inputs = case.inputs();
        inputs.q.iter_mut().for_each(round);
        let got = case.run(lab(), &inputs).unwrap();
        let reference = case.reference(&inputs).unwrap();
        case.hold(&got, &reference).unwrap();
    }
}

/// The largest numbers of f16, in and out.
#[test]
fn the_ends_of_f16() {
    const MOST: f32 = 65504.0;
    let f16 = DType::F16;
    let problem = AttentionProblem { q_dtype: f16, kv_dtype: f16, out_dtype: f16, ..control() };
    let case = Case::quick(&problem).unwrap();
    // Values: averages of ±65504 stay within.
    let mut inputs = case.inputs();
    inputs.v.iter_mut().for_each(|x| *x = MOST.copysign(*x));
    case.hold(&case.run(lab(), &inputs).unwrap(), &case.reference(&inputs).unwrap()).unwrap();
    // All of them the same: exact, though the scores are 6.9e10.
    for x in &mut [&mut inputs.q, &mut inputs.k, &mut inputs.v] {
        x.fill(MOST);
    }
    let got = case.run(lab(), &inputs).unwrap();
    let allowed = Bound::Uniform(32.0);
    let truth = vec![f64::from(MOST); got.out.len()];
    compare("out", &got.out, &truth, &allowed, case.out_shape()).unwrap();
}
