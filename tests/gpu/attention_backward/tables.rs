//! Tables of cases against the oracle.

use std::f64::consts::PI;

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::attention_backward::{AttentionBackwardProblem, BlockedTile};
use phasor::rotary::{Pairing, RopeConfig, RopeRule};
use phasor::{Bias, DType, HeadMap, MaskHook, OutputHead, Phase};

use super::{Case, control, of, small_tile};
use crate::attention::variants::STRIPES;
use crate::harness::{Ids, Place, Rotation, run_table};

/// Around the edges of both tiles, of 8 and 16 rows.
const SIZES: [(u32, u32); 12] = [
    (1, 1),
    (7, 8),
    (8, 8),
    (9, 9),
    (15, 17),
    (17, 15),
    (16, 33),
    (33, 16),
    (37, 43),
    (43, 37),
    (1, 40),
    (40, 1),
];

#[test]
fn sizes_around_the_edges_of_tiles() {
    let mut cases = Vec::new();
    for (name, case) in
        [("small", Case::small(&control()).unwrap()), ("own", Case::new(&control()).unwrap())]
    {
        for (seq_q, seq_k) in SIZES {
            let shape = AttentionShape::new(2, seq_q, seq_k);
            let kv_lens = Some(vec![seq_k / 2, seq_k]);
            cases.push((format!("{name} {seq_q} x {seq_k}"), Case { shape, ..case.clone() }));
            let padded = Case { shape, kv_lens, ..case.clone() };
            cases.push((format!("{name} {seq_q} x {seq_k}, padded"), padded));
        }
        for query_offset in [-5, 0, 20, 60] {
            let shape = AttentionShape { query_offset: Some(query_offset), ..case.shape };
            cases.push((format!("{name}, offset {query_offset}"), Case { shape, ..case.clone() }));
        }
        let none = Case { kv_lens: Some(vec![0, 43]), ..case.clone() };
        cases.push((format!("{name}, a sequence without keys"), none));
    }
    run_table(&cases, Case::check);
}

/// One of them in f16 besides.
#[test]
fn head_dimensions() {
    let mut cases = Vec::new();
    let (f16, f32) = (DType::F16, DType::F32);
    for (d, dv, streams, dtype) in
        [(8, 16, 2, f32), (72, 40, 2, f16), (80, 96, 1, f32), (256, 256, 1, f32)]
    {
        let heads = if streams == 2 { HeadMap::ropepp(1) } else { HeadMap::plain(1) };
        let forward = AttentionProblem {
            value_dim: dv,
            q_dtype: dtype,
            kv_dtype: dtype,
            out_dtype: dtype,
            ..AttentionProblem::new(heads.unwrap(), 1, d)
        };
        let case = Case::new(&of(forward)).unwrap();
        let shape = AttentionShape::new(1, 19, 21);
        cases.push((format!("D {d}, D_v {dv}, {dtype}"), Case { shape, size: 1.0, ..case }));
    }
    run_table(&cases, Case::check);
}

#[test]
fn head_maps_and_groups() {
    // Whose other rows are no mixtures.
    let mut half_a_turn = HeadMap::ropepp(1).unwrap().heads().to_vec();
    half_a_turn.push(head(1, PI));
    let maps = [
        ("plain, 2 a group", HeadMap::plain(4).unwrap(), 2),
        ("both, 3 a group", HeadMap::ropepp(3).unwrap(), 1),
        ("plain, 8 a group", HeadMap::plain(8).unwrap(), 1),
        ("imaginary alone", HeadMap::imago(2).unwrap(), 2),
        ("half a turn alone beside a pair", HeadMap::new(2, half_a_turn).unwrap(), 1),
        ("three outputs of a head, none of another", three_and_none(), 2),
    ];
    let case = |(name, heads, kv_heads): (&str, _, _)| {
        let problem = of(AttentionProblem::new(heads, kv_heads, 16));
        let shape = AttentionShape::new(2, 21, 23);
        (name.to_owned(), Case { shape, ..Case::new(&problem).unwrap() })
    };
    run_table(&maps.map(case), Case::check);
}

fn head(source: u32, phi: f64) -> OutputHead {
    OutputHead { source, phase: Phase::radians(phi) }
}

/// Mixtures of four query heads: three outputs of one, none of two.
fn three_and_none() -> HeadMap {
    HeadMap::new(4, vec![head(0, 0.3), head(0, -1.1), head(2, 0.7), head(0, 2.5)]).unwrap()
}

/// All that models add to the control, and gradients of all that has one.
fn everything() -> AttentionBackwardProblem {
    let forward = AttentionProblem {
        window: Some(9),
        softcap: Some(1.5),
        alibi_slopes: vec![0.5, 0.25, -0.5, 0.1],
        bias: Some(Bias::Additive),
        sinks: vec![0.5, f32::NEG_INFINITY, -1.0, 2.0],
        softmax_scale: -0.4,
        ..control().attention
    };
    AttentionBackwardProblem { d_lse: true, d_sinks: true, d_bias: true, ..of(forward) }
}

/// Masks by places are run-time numbers; what is another shader comes together in few.
#[test]
fn what_models_add() {
    let forward = control().attention;
    let mask_mod = Some(MaskHook::new(STRIPES).unwrap());
    let full = AttentionProblem { causal: false, ..forward.clone() };
    let window = AttentionProblem { window: Some(7), ..forward.clone() };
    let both_ways = AttentionProblem { causal: false, ..window.clone() };
    let masks = AttentionProblem { bias: Some(Bias::Mask), mask_mod, ..forward.clone() };
    let mut everything_both_ways = everything();
    everything_both_ways.attention.causal = false;
    let problems = [
        ("full", of(full)),
        ("window", of(window)),
        ("window both ways", of(both_ways)),
        ("mask and hook", of(masks)),
        ("everything", everything()),
        ("everything, both ways", everything_both_ways),
    ];
    let mut cases = Vec::new();
    for (name, problem) in problems {
        let case = Case::new(&problem).unwrap();
        cases.push((name.to_owned(), case.clone()));
        let padded = Case { kv_lens: Some(vec![11, 40]), ..case };
        cases.push((format!("{name}, padded"), padded));
    }
    for window in [None, Some(9)] {
        let forward = AttentionProblem { prefix: true, window, ..forward.clone() };
        let prefix = Case::new(&of(forward)).unwrap();
        for lens in [[0, 20], [43, 1000], [1, 17]] {
            let case = Case { prefix_lens: Some(lens.to_vec()), ..prefix.clone() };
            cases.push((format!("window {window:?}, prefix {lens:?}"), case.clone()));
            let padded = Case { kv_lens: Some(vec![9, 30]), ..case };
            cases.push((format!("window {window:?}, prefix {lens:?}, padded"), padded));
        }
    }
    run_table(&cases, Case::check);
}

/// By a table with a scale: gradients are multiplied by it.
fn rotated(
    problem: AttentionBackwardProblem,
    (pairing, rotary_dim): (Pairing, u32),
    [rotate_q, unrotate]: [bool; 2],
    ids: Ids,
) -> (AttentionBackwardProblem, Option<[Rotation; 2]>) {
    let head_dim = problem.attention.head_dim;
    let rule = RopeRule::YarnRotations {
        factor: 4.0,
        original_max_position_embeddings: 64,
        alpha: 1.0,
        beta: 4.0,
    };
    let config = RopeConfig { rotary_dim, pairing, rule, ..RopeConfig::new(head_dim, 1e4) };
    let rotation = Rotation::new(config, ids);
    let forward = AttentionProblem { rotate_q, pairing, rotary_dim, ..problem.attention };
    let problem = AttentionBackwardProblem { attention: forward, unrotate, ..problem };
    (problem, Some([rotation.clone(), rotation]))
}

/// Every pairing and every choice of what is turned; some pairs alone are in the table of
/// [blocked tiles](blocked_tiles_with_everything_at_once).
#[test]
fn rotations_in_the_kernel_and_back() {
    let rows = [
        (Pairing::Half, [false, true], Ids::From(3)),
        (Pairing::InterleavedToHalf, [true, false], Ids::Shared),
        (Pairing::HalfBlocks(2), [true, true], Ids::From(0)),
    ];
    let case = |(pairing, turns, ids)| {
        let (problem, rotations) = rotated(control(), (pairing, 16), turns, ids);
        let name = format!("{pairing:?} {ids:?} {turns:?}");
        (name, Case { rotations, ..Case::new(&problem).unwrap() })
    };
    run_table(&rows.map(case), Case::check);
}

/// The kernel of tiles in workgroup memory, of which a software adapter takes a minute to compile
/// a pair: beside the [control](sizes_around_the_edges_of_tiles) one shader that has everything,
/// channels in several chunks and a tail, mixtures, and some of the pairs turned.
#[test]
fn blocked_tiles_with_everything_at_once() {
    everything_in(small_tile(72));
}

#[test]
#[ignore = "takes a software adapter minutes to compile"]
fn tiles_for_few_registers_with_everything_at_once() {
    everything_in(BlockedTile { few_registers: true, ..small_tile(72) });
}

fn everything_in(tile: BlockedTile) {
    let mut problem = everything();
    let p = &mut problem.attention;
    (p.head_dim, p.value_dim, p.heads, p.kv_heads) = (72, 40, three_and_none(), 2);
    let pairs = (Pairing::Interleaved, 22);
    let (problem, rotations) = rotated(problem, pairs, [true, true], Ids::PerBatch);
    let mut cases = Vec::new();
    for causal in [true, false] {
        let mut problem = problem.clone();
        problem.attention.causal = causal;
        let rotations = rotations.clone();
        let shape = AttentionShape::new(2, 21, 23);
        let tiled = Case::tiled(&problem, tile.into()).unwrap();
        let case = Case { rotations, shape, size: 1.0, ..tiled };
        cases.push((format!("causal: {causal}"), case.clone()));
        let padded = Case { kv_lens: Some(vec![7, 20]), ..case };
        cases.push((format!("causal: {causal}, padded"), padded));
    }
    run_table(&cases, Case::check);
}

#[test]
fn places() {
    let case = Case::new(&control()).unwrap();
    let cases = [Place::Bhsd, Place::Bshd, Place::BshdGaps]
        .map(|place| (format!("{place:?}"), Case { place, ..case.clone() }));
    run_table(&cases, Case::check);
}
