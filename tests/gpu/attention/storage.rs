//! Element types and layouts.

use phasor::attention::{AttentionProblem, AttentionShape, Outputs};
use phasor::rotary::RopeConfig;
use phasor::{DType, Tensor};

use super::{Case, Places, control};
use crate::harness::{Ids, Place, Placed, Rotation, lab, run_table};

const F16: DType = DType::F16;

#[test]
fn half_precision() {
    let problems = [
        (
            "everything",
            AttentionProblem { q_dtype: F16, kv_dtype: F16, out_dtype: F16, ..control() },
        ),
        ("keys and values", AttentionProblem { kv_dtype: F16, ..control() }),
        ("queries and outputs", AttentionProblem { q_dtype: F16, out_dtype: F16, ..control() }),
    ];
    let mut cases =
        problems.map(|(name, problem)| (name.to_owned(), Case::quick(&problem).unwrap())).to_vec();
    let problem = AttentionProblem {
        q_dtype: F16,
        out_dtype: F16,
        outputs: Outputs::Split,
        rotate_q: true,
        ..control()
    };
    let rotation = Some(Rotation::new(RopeConfig::new(16, 10_000.0), Ids::From(3)));
    let case = Case { rotation, ..Case::quick(&problem).unwrap() };
    cases.push(("queries that are rotated here, and split outputs".into(), case));
    run_table(&cases, Case::check);
}

#[test]
fn layouts() {
    let control = Case::quick(&control()).unwrap();
    let dense = Places { q: Place::Bhsd, k: Place::Bhsd, v: Place::Bhsd, out: Place::Bhsd };
    let packed = |all, first| Place::Packed { all, first };
    let cases = [
        ("dense", dense),
        ("q [B, S, H, D]", Places { q: Place::Bshd, ..dense }),
        ("k [B, S, H, D]", Places { k: Place::Bshd, ..dense }),
        ("v [B, S, H, D]", Places { v: Place::Bshd, ..dense }),
        ("out [B, S, H, D]", Places { out: Place::Bshd, ..dense }),
        ("q with gaps", Places { q: Place::Gaps, ..dense }),
        ("k with gaps", Places { k: Place::Gaps, ..dense }),
        ("v with gaps", Places { v: Place::BshdGaps, ..dense }),
        ("out with gaps", Places { out: Place::BshdGaps, ..dense }),
        ("q in a packed tensor", Places { q: packed(7, 4), ..dense }),
        ("out in a packed tensor", Places { out: packed(9, 3), ..dense }),
        ("one query for all heads and batches", Places { q: Place::Broadcast, ..dense }),
        (
            "one kv head for all batches",
            Places { k: Place::Broadcast, v: Place::Broadcast, ..dense },
        ),
    ]
    .map(|(name, places)| (name.to_owned(), Case { places, ..control.clone() }));
    run_table(&cases, Case::check);
}

/// A fused projection's [B, S, H_q + 2 H_kv, D], read three times.
#[test]
fn packed_qkv() {
    let case = Case { shape: AttentionShape::new(2, 29, 29), ..Case::quick(&control()).unwrap() };
    let gpu = &lab().gpu;
    let inputs = case.inputs();
    let all = [2, 4, 29, 16];
    let place = |heads, first| Place::Packed { all: 4, first }.layout([2, heads, 29, 16]).unwrap();
    let parts = [(place(2, 0), &inputs.q), (place(1, 2), &inputs.k), (place(1, 3), &inputs.v)];
    // [B, S, H, D] by hand: the layouts are what is tested.
    let mut packed = Vec::new();
    for b in 0..2 {
        for h in 0..4 {
            let (part, first, heads) = [(0, 0, 2), (0, 0, 2), (1, 2, 1), (2, 3, 1)][h];
            let plane = (b * heads + h - first) * 29 * 16;
            packed.extend_from_slice(&parts[part].1[plane..plane + 29 * 16]);
        }
    }
    let placed = Placed::input(gpu, DType::F32, Place::Bshd.layout(all).unwrap(), &packed);
    let tensor = |layout| Tensor { layout, ..placed.tensor() };
    let outcome = case.run_on(lab(), parts.map(|(layout, _)| tensor(layout))).unwrap();
    case.hold(&outcome, &case.reference(&inputs).unwrap()).unwrap();
    assert_eq!(placed.read(gpu).unwrap(), packed);
}
