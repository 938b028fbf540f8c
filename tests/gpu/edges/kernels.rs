//! Numbers at the edge in the kernels beside attention.

use phasor::cache::CacheType;
use phasor::decode::Tile;
use phasor::kv_move::Move;
use phasor::merge::{Merge, MergeBindings, MergeProblem, MergeShape};
use phasor::rope::RopeProblem;
use phasor::rotary::RopeConfig;
use phasor::scores::{ComponentOrder, Output, ScoresProblem, ScoresShape};
use phasor::{DType, HeadMap, Layout};
use phasor_kit::tolerance::{Bound, stored};

use super::{hold, untouched};
use crate::{
    decode,
    harness::{Ids, Place, Placed, Rotation, lab, random},
    kv_append, kv_move, linear_attention, rope, scores,
};

const NAN: f32 = f32::NAN;

/// The last of four new rows alone sees the newest value; under a window the first alone sees the
/// oldest.
#[test]
pub fn decode_keeps_a_nan_to_the_rows_that_see_it() {
    let mut case = decode::small(HeadMap::ropepp(4).unwrap(), 2, 16, &[9, 40]);
    (case.seq_q, case.problem.window) = (4, Some(20));
    case.tile = Some(Tile::new(16, 1, 2));
    for splits in [1, 3] {
        case.splits = Some(splits);
        let clean = case.inputs().unwrap();
        let before = case.run(&clean).unwrap();
        for row in [17, 20, 39] {
            let mut inputs = case.inputs().unwrap();
            let at = (40 + row) * 16;
            let mut value = inputs.v[1][at..at + 16].to_vec();
            value[5] = NAN;
            inputs.v_cache.set([1, 1, row as u32], &value).unwrap();
            inputs.v[1][at..at + 16].copy_from_slice(&value);
            let got = case.run(&inputs).unwrap();
            let truth = case.reference::<f64>(&inputs).unwrap();
            let naive = case.reference::<f32>(&inputs).unwrap();
            let bound = Bound::computed(&naive.out, &truth.out, DType::F32);
            hold("out", &got.out, &truth.out, &bound, [2, 8, 4, 16]).unwrap();
            untouched("out", &got.out, &before.out, &truth.out).unwrap();
            assert_eq!(got.lse, before.lse);
        }
    }
}

#[test]
pub fn merge_loses_no_nan() {
    let gpu = &lab().gpu;
    let problem = MergeProblem { lse: true, ..MergeProblem::new(8) };
    let kernel = Merge::new(&gpu.device, &problem.plan(&gpu.capabilities()).unwrap()).unwrap();
    let shape = [3, 2, 5, 8];
    let run = |lses: &[f32]| {
        let parts = Placed::input(
            gpu,
            DType::F32,
            Layout::bhsd(shape).unwrap(),
            &random(shape, 1.0, DType::F32, 1),
        );
        let out = Placed::output(gpu, DType::F32, Layout::bhsd([1, 2, 5, 8]).unwrap());
        let lse = Placed::output(gpu, DType::F32, Layout::bhsd([1, 2, 5, 1]).unwrap());
        let lse_parts = gpu.upload(lses, DType::F32);
        let bindings = MergeBindings {
            parts: parts.tensor(),
            lse_parts: lse_parts.as_entire_buffer_binding(),
            out: out.tensor(),
            lse: Some(lse.binding()),
        };
        let shape = MergeShape { parts: 3, batch: 1, heads: 2, seq: 5 };
        let call = kernel.bind(&gpu.device, &shape, &bindings).unwrap();
        gpu.run(|encoder| call.encode(encoder));
        (out.read(gpu).unwrap(), lse.read(gpu).unwrap())
    };
    let lses = random([3, 1, 2, 5], 4.0, DType::F32, 2);
    let clean = run(&lses);
    let mut spoilt = lses.clone();
    // Of part 1, head 1, row 2.
    spoilt[10 + 7] = NAN;
    let (out, lse) = run(&spoilt);
    for (row, (x, lse)) in out.chunks_exact(8).zip(&lse).enumerate().take(10) {
        if row == 7 {
            assert!(lse.is_nan() && x.iter().all(|x| x.is_nan()), "{x:?} {lse}");
        } else {
            assert_eq!((x, *lse), (&clean.0[8 * row..8 * row + 8], clean.1[row]));
        }
    }
}

#[test]
pub fn rotation_keeps_a_nan_to_its_pair() {
    let rotation = Rotation::new(RopeConfig::new(16, 10_000.0), Ids::From(0));
    let case = rope::Case::new(RopeProblem::new(2, 1, 16), rotation);
    let clean = case.random();
    let before = case.run(lab(), &clean).unwrap();
    for x in [NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut inputs = clean.clone();
        let row = 16 * 30;
        inputs[0][row + 3] = x;
        let [q, k] = case.run(lab(), &inputs).unwrap();
        assert_eq!(k, before[1]);
        for (n, (got, clean)) in q.iter().zip(&before[0]).enumerate() {
            let of_pair = n == row + 3 || n == row + 11;
            assert_eq!(!got.is_finite(), of_pair, "{n}: {got}");
            assert!(of_pair || got.to_bits() == clean.to_bits(), "{n}");
        }
    }
}

#[test]
pub fn causal_linear_attention_keeps_a_nan_from_earlier_queries() {
    let problem = linear_attention::Case::plain(2, 2, 32).unwrap();
    let mut case = linear_attention::Case::new(problem);
    case.shape.batch = 1;
    let clean = case.random();
    let (before, _) = case.run(lab(), &clean, None).unwrap();
    for key in [20, 40, 69] {
        for x in [NAN, f32::INFINITY] {
            let mut inputs = clean.clone();
            inputs[2][(70 + key) * 32 + 5] = x;
            let (got, _) = case.run(lab(), &inputs, None).unwrap();
            for (n, (got, clean)) in got.iter().zip(&before).enumerate() {
                let spoilt = n / (32 * 70) == 1 && n / 32 % 70 >= key && n % 32 == 5;
                assert_eq!(!got.is_finite(), spoilt, "key {key}, {n}: {got}");
                assert!(spoilt || got.to_bits() == clean.to_bits(), "key {key}, {n}");
            }
        }
        let mut inputs = clean.clone();
        inputs[1][(70 + key) * 32 + 5] = NAN;
        let (got, _) = case.run(lab(), &inputs, None).unwrap();
        for (n, (got, clean)) in got.iter().zip(&before).enumerate() {
            let spoilt = n / (32 * 70) == 1 && n / 32 % 70 >= key;
            assert!(if spoilt { got.is_nan() } else { got.to_bits() == clean.to_bits() }, "{n}");
        }
    }
}

/// Codes have no NaN: all of the row, or of the block of a q4 row, comes back as one.
#[test]
pub fn quantised_caches_lose_no_nan() {
    for (stored, share) in [(CacheType::Int8, 64), (CacheType::Q4, 32)] {
        let mut case = kv_append::Case::new(64);
        case.rotation = None;
        (case.problem.cache.k, case.problem.cache.v) = (stored, stored);
        let shape = case.dims(64);
        let clean = [random(shape, 1.5, DType::F32, 1), random(shape, 1.5, DType::F32, 2)];
        let before = case.run(&clean[0], &clean[1]).unwrap();
        for x in [NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut inputs = clean.clone();
            // Batch 1, head 1, row 2: slot 9.
            let row = (3 * 3 + 2) * 64;
            inputs.iter_mut().for_each(|tensor| tensor[row + 40] = x);
            let after = case.run(&inputs[0], &inputs[1]).unwrap();
            for ((mut before, mut after), input) in
                before.clone().into_iter().zip(after).zip(&inputs)
            {
                let got = after.get([1, 1, 9]).unwrap();
                let clean = before.get([1, 1, 9]).unwrap();
                for (n, (got, clean)) in got.iter().zip(&clean).enumerate() {
                    let spoilt = n / share == 40 / share;
                    assert!(
                        if spoilt { got.is_nan() } else { got == clean },
                        "{stored} {n}: {got}"
                    );
                }
                let said = phasor::oracle::encode_rows(&input[row..row + 64], 64, stored).unwrap();
                let said = phasor::oracle::decode_rows(&said, 64, stored).unwrap();
                assert!(said.iter().zip(&got).all(|(a, b)| a.is_nan() == b.is_nan()));
                before.erase([[1, 1, 9]]);
                after.erase([[1, 1, 9]]);
                let rows =
                    (0..3).flat_map(|b| (0..2).flat_map(move |h| (0..24).map(move |s| [b, h, s])));
                for place in rows {
                    let bits = |cache: &crate::harness::HostCache| {
                        cache.get(place).unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                    };
                    assert_eq!(bits(&before), bits(&after), "{place:?}");
                }
            }
        }
    }
}

/// What was in a row goes to its new place, and nowhere else: values as they are, keys turned.
#[test]
pub fn moved_rows_keep_a_nan_to_its_pair() {
    const ALL: std::ops::Range<usize> = 0..64;
    for (stored, of_k, of_v) in [
        (CacheType::F32, vec![5..6, 37..38], 5..6),
        (CacheType::Int8, vec![ALL], ALL),
        // Both blocks of a turned q4 row have a member of the pair.
        (CacheType::Q4, vec![ALL], 0..32),
    ] {
        let mut case = kv_move::Case::new(64, &[Move::shift(1, 4, 8, 40)]);
        (case.problem.cache.k, case.problem.cache.v) = (stored, stored);
        let clean = case.caches().unwrap();
        let before = case.run(&clean).unwrap();
        for x in [NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut caches = clean.clone();
            for side in &mut caches {
                let mut row = side.get([1, 1, 20]).unwrap();
                row[5] = x;
                side.set([1, 1, 20], &row).unwrap();
            }
            let after = case.run(&caches).unwrap();
            let spoilt = [of_k.clone(), vec![of_v.clone()]];
            for ((mut before, mut after), spoilt) in
                before.clone().into_iter().zip(after).zip(spoilt)
            {
                // Row 20 went to 12, and row 28 came to where it was.
                let (got, clean) =
                    (after.get([1, 1, 12]).unwrap(), before.get([1, 1, 12]).unwrap());
                for (n, (got, clean)) in got.iter().zip(&clean).enumerate() {
                    let of = spoilt.iter().any(|range| range.contains(&n));
                    assert_eq!(!got.is_finite(), of, "{stored} {n}: {got}");
                    assert!(of || got.to_bits() == clean.to_bits(), "{stored} {n}");
                }
                before.erase([[1, 1, 12]]);
                after.erase([[1, 1, 12]]);
                assert!(before.is_same(&after), "{stored}: another row has changed");
            }
        }
    }
}

#[test]
pub fn scores_and_statistics_at_the_edge() {
    let output = Output::Scores(ComponentOrder::Planes);
    let problem = ScoresProblem { output, ..ScoresProblem::new(4, 2, 32) };
    let case = scores::Case { problem, shape: ScoresShape::new(1, 20, 20) };
    let mut inputs = case.random();
    // Of kv head 1, which heads 2 and 3 read.
    inputs[1][(20 + 7) * 32] = NAN;
    let got = case.run(lab(), &inputs, None).unwrap();
    for (n, x) in got[0].1.iter().enumerate() {
        let (plane, i, j) = (n / 400, n / 20 % 20, n % 20);
        match j > i {
            true => assert_eq!(*x, f32::NEG_INFINITY, "{n}"),
            false => assert_eq!(x.is_nan(), plane >= 4 && j == 7, "{n}: {x}"),
        }
    }
    // One key with scores of −∞: as if it were not there.
    let output = Output::Statistics { distance: 7 };
    let problem = ScoresProblem { output, causal: false, ..ScoresProblem::new(4, 2, 32) };
    let case = scores::Case { problem, shape: ScoresShape::new(1, 20, 20) };
    let mut inputs = case.random();
    inputs[0].iter_mut().for_each(|x| *x = x.abs() + 0.1);
    for head in 0..2 {
        inputs[1][(20 * head + 7) * 32] = f32::NEG_INFINITY;
    }
    let got = case.run(lab(), &inputs, None).unwrap();
    let of = |name| &got.iter().find(|(other, _)| *other == name).unwrap().1;
    for n in 0..of("lse").len() {
        let mass = of("mass within")[n] + of("mass beyond")[n];
        assert!((mass - 1.0).abs() < 1e-5, "{mass}");
        let entropy = of("entropy")[n];
        assert!((0.0..=(19f32).ln() + 1e-5).contains(&entropy), "{entropy}");
        assert!(of("lse")[n].is_finite() && of("mean distance")[n].is_finite());
    }
}

/// WGSL leaves open what becomes of a number past the range of f16; on the devices tested it is
/// infinite or NaN (SwiftShader), and it never reaches a neighbour.
#[test]
fn f16_overflows_alone() {
    let rotation = Rotation::new(RopeConfig::new(16, 10_000.0), Ids::From(0));
    let problem = RopeProblem { dtype: DType::F16, ..RopeProblem::new(1, 1, 16) };
    let mut case = rope::Case::new(problem, rotation);
    case.inputs = [Place::Bhsd; 2];
    let clean = case.random();
    let before = case.run(lab(), &clean).unwrap();
    let mut inputs = clean.clone();
    // Turned by 1 radian: 65504 (cos 1 + sin 1) is too much for f16.
    (inputs[0][16], inputs[0][24]) = (65504.0, -65504.0);
    let [q, _] = case.run(lab(), &inputs).unwrap();
    let past = [16].map(|n| q[n]);
    assert!(past.iter().all(|x| x.is_nan() || x.abs() >= 65504.0), "{past:?}");
    let kept = stored(&[65504.0 * (1f32.sin() - 1f32.cos())], DType::F16)[0];
    assert!((q[24] - kept).abs() <= 32.0, "{} is not {kept}", q[24]);
    for (n, (got, clean)) in q.iter().zip(&before[0]).enumerate() {
        assert!(n == 16 || n == 24 || got.to_bits() == clean.to_bits(), "{n}");
    }
}
