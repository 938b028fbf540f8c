//! Whole problems at random (shapes, strides, offsets, masks, dtypes, components, variants) against
//! the oracle. The sample of every test run draws the same problems each time, from few shaders;
//! the long one is
//!
//! ```sh
//! cargo test --test gpu -- --ignored random
//! ```
//!
//! and draws 2,400 from many. `PHASOR_SEED` starts it elsewhere. A failing problem is shrunk and
//! printed as the `Case` that it is.

mod attention;
mod others;

use std::fmt::Debug;

use phasor::{DType, HeadMap, KernelKind, OutputHead, Phase};
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

use crate::harness::{KernelTests, Place, Result};

/// The sample of each kernel, or why there is none.
const KERNELS: KernelTests = [
    (KernelKind::Attention, Ok(attention::attention_sample)),
    (
        KernelKind::AttentionBackward,
        Err("each case takes four pipelines; its tables hold ragged sizes and every choice"),
    ),
    (KernelKind::Decode, Ok(attention::decode_sample)),
    (KernelKind::KvAppend, Ok(others::append_sample)),
    (KernelKind::KvMove, Ok(others::move_sample)),
    (KernelKind::LinearAttention, Ok(others::linear_sample)),
    (
        KernelKind::LinearAttentionBackward,
        Err("each case takes ten pipelines; its table holds ragged sizes and every choice"),
    ),
    (KernelKind::Merge, Ok(others::merge_sample)),
    (KernelKind::Rope, Ok(others::rope_sample)),
    (KernelKind::Scores, Err("one kernel of few choices, all of them in its table")),
];

#[test]
fn every_kernel_has_a_row() {
    assert_eq!(KernelKind::not_once(KERNELS.map(|(kernel, _)| kernel)), []);
}

/// How many different shaders a run may draw from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Width {
    /// Those that other tests compile as well.
    Few,
    Many,
}

/// Holds `cases` random problems.
fn hold<C: Debug + Clone>(
    width: Width,
    cases: u32,
    strategy: impl Strategy<Value = C>,
    check: impl Fn(&C) -> Result,
) {
    let mut seed = [7; 32];
    if width == Width::Many
        && let Ok(text) = std::env::var("PHASOR_SEED")
    {
        let number: u64 = text.parse().expect("PHASOR_SEED is a number");
        seed[..8].copy_from_slice(&number.to_le_bytes());
    }
    let config = Config {
        cases,
        failure_persistence: None,
        // Each step of shrinking may compile a shader.
        max_shrink_iters: 64,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let run = |case| check(&case).map_err(|error| TestCaseError::fail(error.to_string()));
    if let Err(error) = runner.run(&strategy, run) {
        panic!("{error}");
    }
}

/// Any place whose strides and offsets are multiples of 4 elements.
fn place(heads: u32) -> impl Strategy<Value = Place> {
    prop_oneof![
        Just(Place::Bhsd),
        Just(Place::Bshd),
        Just(Place::Gaps),
        Just(Place::BshdGaps),
        (1..6u32).prop_map(|n| Place::Odd(4 * n)),
        (0..3u32, 0..3u32).prop_map(move |(before, behind)| Place::Packed {
            all: before + heads + behind,
            first: before
        }),
    ]
}

/// The same, or one head in the place of all.
fn input_place(heads: u32) -> impl Strategy<Value = Place> {
    prop_oneof![9 => place(heads), 1 => Just(Place::Broadcast)]
}

/// What rounding to multiples of `epsilon` of a number may do to scores that are large: half an ulp
/// at the size of the largest Σ|q k| moves every weight by as much. The naive run may be lucky with
/// a few rows.
fn rounding(epsilon: f64, dim: u32, scale: f32, q: &[f32], k: &[f32], v: &[f32]) -> f64 {
    let largest = |x: &[f32]| x.iter().fold(0.0, |m: f64, x| m.max(f64::from(x.abs())));
    let scores = f64::from(dim) * f64::from(scale.abs()) * largest(q) * largest(k);
    4.0 * epsilon * scores * largest(v)
}

fn dtype() -> impl Strategy<Value = DType> {
    select(vec![DType::F32, DType::F16])
}

/// One or two softmax streams of `q_heads` query heads: components, phases, repeated and missing
/// heads.
fn heads(q_heads: u32, width: Width) -> BoxedStrategy<HeadMap> {
    let both = Just(HeadMap::ropepp(q_heads).expect("heads"));
    if width == Width::Few {
        return both.boxed();
    }
    let plain = Just(HeadMap::plain(q_heads).expect("heads"));
    let phase = prop_oneof![
        Just(Phase::REAL),
        Just(Phase::IMAGINARY),
        (-3.0..3.0f64).prop_map(Phase::radians),
    ];
    let head = (0..q_heads, phase).prop_map(|(source, phase)| OutputHead { source, phase });
    let any = prop::collection::vec(head, 1..6)
        .prop_map(move |heads| HeadMap::new(q_heads, heads).expect("heads"));
    prop_oneof![3 => both, 2 => plain, 3 => any].boxed()
}
