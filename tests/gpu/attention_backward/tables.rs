//! Tables of cases against the oracle.

use std::f64::consts::PI;

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::attention_backward::AttentionBackwardProblem;
use phasor::rotary::{Pairing, RopeConfig, RopeRule};
use phasor::{Bias, DType, HeadMap, MaskHook, OutputHead, Phase};

use super::{Case, control, of};
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

#[test]
fn head_dimensions() {
    let mut cases = Vec::new();
    for (d, dv, streams) in [(8, 16, 2), (72, 40, 2), (80, 96, 1), (256, 256, 1)] {
        let heads = if streams == 2 { HeadMap::ropepp(1) } else { HeadMap::plain(1) };
        let forward =
            AttentionProblem { value_dim: dv, ..AttentionProblem::new(heads.unwrap(), 1, d) };
        let case = Case::new(&of(forward.clone())).unwrap();
        let shape = AttentionShape::new(1, 19, 21);
        cases.push((format!("D {d}, D_v {dv}"), Case { shape, size: 1.0, ..case }));
        if d == 72 {
            let case = Case::small(&of(forward)).unwrap();
            cases.push((format!("D {d}, small"), Case { shape, size: 1.0, ..case }));
        }
    }
    run_table(&cases, Case::check);
}

#[test]
fn head_maps_and_groups() {
    let head = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let three = vec![head(0, 0.3), head(0, -1.1), head(2, 0.7), head(0, 2.5)];
    // Whose other rows are no mixtures.
    let mut half_a_turn = HeadMap::ropepp(1).unwrap().heads().to_vec();
    half_a_turn.push(head(1, PI));
    let maps = [
        ("plain, 2 a group", HeadMap::plain(4).unwrap(), 2),
        ("both, 3 a group", HeadMap::ropepp(3).unwrap(), 1),
        ("plain, 8 a group", HeadMap::plain(8).unwrap(), 1),
        ("imaginary alone", HeadMap::imago(2).unwrap(), 2),
        ("half a turn alone beside a pair", HeadMap::new(2, half_a_turn).unwrap(), 1),
        ("three outputs of a head, none of another", HeadMap::new(4, three).unwrap(), 2),
    ];
    let mut cases = Vec::new();
    for (name, heads, kv_heads) in maps {
        let problem = of(AttentionProblem::new(heads, kv_heads, 16));
        let shape = AttentionShape::new(2, 21, 23);
        cases.push((name.to_owned(), Case { shape, ..Case::new(&problem).unwrap() }));
        // A software adapter takes many seconds to compile a blocked tile.
        if name.starts_with("three") {
            let small = Case::small(&problem).unwrap();
            cases.push((format!("{name}, small"), Case { shape, ..small }));
        }
    }
    run_table(&cases, Case::check);
}

#[test]
fn what_models_add() {
    let forward = control().attention;
    let with = |name: &str, forward: AttentionProblem| (name.to_owned(), of(forward));
    let mask_mod = Some(MaskHook::new(STRIPES).unwrap());
    let sinks = vec![0.5, f32::NEG_INFINITY, -1.0, 2.0];
    let all = AttentionProblem {
        window: Some(9),
        softcap: Some(1.5),
        alibi_slopes: vec![0.5, 0.25, -0.5, 0.1],
        bias: Some(Bias::Additive),
        sinks: sinks.clone(),
        softmax_scale: -0.4,
        ..forward.clone()
    };
    let everything =
        AttentionBackwardProblem { d_lse: true, d_sinks: true, d_bias: true, ..of(all) };
    let mut both_ways = everything.clone();
    both_ways.attention.causal = false;
    let problems = [
        with("full", AttentionProblem { causal: false, ..forward.clone() }),
        with("window", AttentionProblem { window: Some(7), ..forward.clone() }),
        with(
            "window both ways",
            AttentionProblem { window: Some(7), causal: false, ..forward.clone() },
        ),
        with("softcap", AttentionProblem { softcap: Some(2.0), ..forward.clone() }),
        with("mask", AttentionProblem { bias: Some(Bias::Mask), ..forward.clone() }),
        with("hook", AttentionProblem { mask_mod, ..forward.clone() }),
        ("everything".to_owned(), everything),
        ("everything, both ways".to_owned(), both_ways),
    ];
    let mut cases = Vec::new();
    for (name, problem) in problems {
        let small = (name == "everything").then(|| ("small", Case::small(&problem)));
        for (tile, case) in small.into_iter().chain([("own", Case::new(&problem))]) {
            let case = case.unwrap();
            cases.push((format!("{name}, {tile}"), case.clone()));
            let padded = Case { kv_lens: Some(vec![11, 40]), ..case };
            cases.push((format!("{name}, {tile}, padded"), padded));
        }
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

#[test]
fn rotations_in_the_kernel_and_back() {
    let mut cases = Vec::new();
    for (pairing, rotary_dim, ids) in [
        (Pairing::Half, 16, Ids::From(3)),
        (Pairing::Interleaved, 6, Ids::PerBatch),
        (Pairing::InterleavedToHalf, 16, Ids::Shared),
        (Pairing::HalfBlocks(2), 16, Ids::From(0)),
    ] {
        for (rotate_q, unrotate) in [(true, true), (false, true), (true, false)] {
            if rotate_q != unrotate && pairing != Pairing::Half {
                continue;
            }
            let forward = AttentionProblem { rotate_q, pairing, rotary_dim, ..control().attention };
            let problem = AttentionBackwardProblem { unrotate, ..of(forward) };
            // A table with a scale: gradients are multiplied by it.
            let rule = RopeRule::YarnRotations {
                factor: 4.0,
                original_max_position_embeddings: 64,
                alpha: 1.0,
                beta: 4.0,
            };
            let config = RopeConfig { rotary_dim, pairing, rule, ..RopeConfig::new(16, 1e4) };
            let rotation = Rotation::new(config, ids);
            let rotations = Some([rotation.clone(), rotation]);
            let name = format!("{pairing:?} {rotary_dim} {ids:?} {rotate_q} {unrotate}");
            let partial = rotary_dim < 16;
            let case = if partial { Case::small(&problem) } else { Case::new(&problem) };
            cases.push((name, Case { rotations, ..case.unwrap() }));
        }
    }
    run_table(&cases, Case::check);
}

#[test]
fn storage_and_places() {
    let mut cases = Vec::new();
    let case = Case::small(&control()).unwrap();
    for place in [Place::Bhsd, Place::Bshd, Place::BshdGaps] {
        cases.push((format!("{place:?}"), Case { place, ..case.clone() }));
    }
    let f16 = DType::F16;
    let forward =
        AttentionProblem { q_dtype: f16, kv_dtype: f16, out_dtype: f16, ..control().attention };
    cases.push(("f16".to_owned(), Case::new(&of(forward)).unwrap()));
    run_table(&cases, Case::check);
}
