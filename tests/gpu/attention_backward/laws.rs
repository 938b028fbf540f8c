//! What holds of gradients whatever the numbers are, and which bits stay the same.

use phasor::Budget;
use phasor::attention::{Alignment, AttentionProblem, AttentionShape, Keys, Queries};
use phasor::attention_backward::AttentionBackwardBindings;
use phasor::{DType, HeadMap, Layout, Tensor};
use phasor_kit::tolerance::{Bound, compare};

use super::{Case, Inputs, control, of};
use crate::harness::{lab, random};

/// Σ over rows of each channel of `[B, H, S, D]`.
fn row_sums(x: &[f32], [_, _, rows, dim]: [u32; 4]) -> Vec<f64> {
    let (rows, dim) = (rows as usize, dim as usize);
    let column =
        |plane: &[f32], c: usize| plane.iter().skip(c).step_by(dim).map(|&x| f64::from(x)).sum();
    x.chunks_exact(rows * dim).flat_map(|plane| (0..dim).map(move |c| column(plane, c))).collect()
}

#[test]
fn keys_moved_together_change_nothing() {
    // Scores of a row move alike when one vector is added to all rotated keys, and P sums to 1.
    let case = Case::new(&control()).unwrap();
    let inputs = case.inputs();
    let got = case.run(lab(), &inputs).unwrap();
    let [_, k, v, out, _] = case.shapes();
    let sums = row_sums(&got.dk, k);
    let wrong = sums.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert!(wrong < 2e-4, "dk sums to {wrong}");
    // Every row sees a key here, so that dv sums to all of d_out.
    let d_out = row_sums(&inputs.0[3], out);
    let dv = row_sums(&got.dv, v);
    let dim = v[3] as usize;
    for (b, dv) in dv.chunks_exact(dim).enumerate() {
        for (c, dv) in dv.iter().enumerate() {
            let all: f64 = (0..4).map(|head| d_out[(b * 4 + head) * dim + c]).sum();
            assert!((dv - all).abs() < 2e-4, "{dv} and {all}");
        }
    }
}

#[test]
fn gradients_are_linear_upstream() {
    let mut problem = control();
    problem.d_lse = true;
    let case = Case::new(&problem).unwrap();
    let Inputs([q, k, v, d_out, d_lse]) = case.inputs();
    let other = random(case.shapes()[3], 2.0, DType::F32, 77);
    let run = |d_out: Vec<f32>, d_lse: Vec<f32>| {
        case.run(lab(), &Inputs([q.clone(), k.clone(), v.clone(), d_out, d_lse])).unwrap()
    };
    let none = vec![0.0; d_lse.len()];
    let (a, b) = (run(d_out.clone(), d_lse.clone()), run(other.clone(), none));
    let both = d_out.iter().zip(&other).map(|(x, y)| x + 2.0 * y).collect();
    let sum = run(both, d_lse);
    let [q, k, v, ..] = case.shapes();
    for (name, sum, a, b, shape) in [
        ("dq", sum.dq, a.dq, b.dq, q),
        ("dk", sum.dk, a.dk, b.dk, k),
        ("dv", sum.dv, a.dv, b.dv, v),
    ] {
        let wanted: Vec<f64> =
            a.iter().zip(b).map(|(a, b)| f64::from(*a) + 2.0 * f64::from(b)).collect();
        compare(name, &sum, &wanted, &Bound::Uniform(1e-4), shape).unwrap();
    }
}

#[test]
fn what_nobody_sees_has_a_gradient_of_zero() {
    // A window of 1: each row sees one key, its weight is 1 whatever the score.
    let problem = of(AttentionProblem { window: Some(1), ..control().attention });
    let case = Case { shape: AttentionShape::new(2, 20, 30), ..Case::new(&problem).unwrap() };
    let inputs = case.inputs();
    let got = case.run(lab(), &inputs).unwrap();
    let largest = |x: &[f32]| x.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(largest(&got.dq) < 2e-5 && largest(&got.dk) < 2e-5);
    // The first ten keys are seen by nobody.
    for x in [&got.dk, &got.dv] {
        for plane in x.chunks_exact(30 * 16) {
            assert!(plane[..10 * 16].iter().all(|&x| x == 0.0));
        }
    }
}

#[test]
fn the_same_bits_again_in_parts_and_in_another_batch() {
    for case in [Case::small(&control()).unwrap(), Case::new(&control()).unwrap()] {
        let case = Case { kv_lens: Some(vec![21, 43]), ..case };
        let inputs = case.inputs();
        let once = case.run(lab(), &inputs).unwrap();
        assert_eq!(case.run(lab(), &inputs).unwrap(), once);
        let budget = case.plan.least_budget(&case.shape);
        let parts = Case { budget, ..case.clone() };
        assert_eq!(parts.run(lab(), &inputs).unwrap(), once);
        let under = Case { budget: Budget::flops(budget.limit() - 1), ..case.clone() };
        assert!(under.run(lab(), &inputs).is_err());
        // The second batch alone.
        let alone = Case {
            shape: AttentionShape { batch: 1, ..case.shape },
            kv_lens: Some(vec![43]),
            ..case.clone()
        };
        let half = |x: &Vec<f32>| x[x.len() / 2..].to_vec();
        let second = alone.run(lab(), &Inputs(inputs.0.each_ref().map(half))).unwrap();
        assert_eq!(second.dq, half(&once.dq));
        assert_eq!(second.dk, half(&once.dk));
        assert_eq!(second.dv, half(&once.dv));
    }
}

/// Sequences behind one another give the bits that each gives alone.
#[test]
fn ragged_batches_are_their_sequences() {
    let forward = AttentionProblem {
        queries: Queries::Ragged,
        keys: Keys::Ragged,
        alignment: Alignment::LastKey,
        ..AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 16)
    };
    let ragged = Case::new(&of(forward)).unwrap();
    let plain = Case::new(&control()).unwrap();
    let gpu = &lab().gpu;
    let sequences = [(9u32, 13u32), (1, 1), (20, 20), (0, 4)];
    let cases = sequences.map(|(seq_q, seq_k)| Case {
        shape: AttentionShape::new(1, seq_q, seq_k),
        seed: u64::from(seq_q),
        ..plain.clone()
    });
    let runs: Vec<_> = cases.iter().map(|case| (case.inputs(), case)).collect();
    // [1, H, rows, D] of all: each head's rows of each sequence, one behind the other.
    let joined = |heads: usize, part: &dyn Fn(&Inputs, &Case) -> Vec<f32>| -> Vec<f32> {
        let parts: Vec<_> = runs.iter().map(|(inputs, case)| part(inputs, case)).collect();
        (0..heads)
            .flat_map(|h| {
                parts.iter().flat_map(move |x| {
                    let plane = x.len() / heads;
                    x[h * plane..(h + 1) * plane].to_vec()
                })
            })
            .collect()
    };
    let upload = |x: &[f32]| gpu.upload(x, DType::F32);
    let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let [q, k, v, d_out] = [(2, 0), (1, 1), (1, 2), (4, 3)]
        .map(|(heads, n)| upload(&joined(heads, &|inputs, _| inputs.0[n].clone())));
    let out =
        upload(&joined(4, &|inputs, case| narrow(&case.oracle::<f64>(inputs).unwrap().0.out)));
    let lse =
        upload(&joined(4, &|inputs, case| narrow(&case.oracle::<f64>(inputs).unwrap().0.lse)));
    let cu = |n: usize| {
        let lens = sequences.iter().map(|s| if n == 0 { s.0 } else { s.1 });
        let ends = lens.scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        gpu.upload_u32(&[0].into_iter().chain(ends).collect::<Vec<_>>())
    };
    let (cu_q, cu_k) = (cu(0), cu(1));
    let (rows, keys) = (30, 38);
    let tensor = |buffer, heads, rows| {
        let layout = Layout::bhsd([1, heads, rows, 16]).unwrap();
        Tensor::new(buffer, DType::F32, layout)
    };
    let [dq, dk, dv] = [2 * rows, keys, keys].map(|n| gpu.output(n as usize * 16, DType::F32));
    let shape = AttentionShape::new(4, 20, 20);
    let bytes = ragged.plan.workspace_bytes(&shape, rows);
    let workspace = gpu.output(bytes as usize / 4, DType::F32);
    let mut bindings = AttentionBackwardBindings::new(
        [tensor(&q, 2, rows), tensor(&k, 1, keys), tensor(&v, 1, keys)],
        (tensor(&out, 4, rows), lse.as_entire_buffer_binding()),
        tensor(&d_out, 4, rows),
        [tensor(&dq, 2, rows), tensor(&dk, 1, keys), tensor(&dv, 1, keys)],
        workspace.as_entire_buffer_binding(),
    );
    bindings.cu_seqlens_q = Some(cu_q.as_entire_buffer_binding());
    bindings.cu_seqlens_k = Some(cu_k.as_entire_buffer_binding());
    let kernel = lab().attention_backward(&ragged.plan).unwrap();
    let call = kernel.bind(&gpu.device, &shape, &bindings).unwrap();
    gpu.run(|encoder| call.encode(encoder));
    let alone = |inputs: &Inputs, case: &Case| case.run(lab(), inputs).unwrap();
    let read = |buffer| gpu.download(buffer, DType::F32);
    assert_eq!(read(&dq), joined(2, &|inputs, case| alone(inputs, case).dq));
    assert_eq!(read(&dk), joined(1, &|inputs, case| alone(inputs, case).dk));
    assert_eq!(read(&dv), joined(1, &|inputs, case| alone(inputs, case).dv));
}
