//! Tables of cases.

use std::f64::consts::PI;

use phasor::cache::CacheType;
use phasor::decode::{DecodeProblem, Tile};
use phasor::rotary::{Pairing, RopeConfig};
use phasor::{Bias, DType, HeadMap, MaskHook, OutputHead, Phase, ScoreHook};

use super::{Case, shared, small};
use crate::attention::variants::{SLANTED, STRIPES};
use crate::harness::{Slots, lab, run_table};

fn both() -> HeadMap {
    HeadMap::ropepp(4).unwrap()
}

fn case(twist: impl FnOnce(&mut Case)) -> Case {
    let mut case = small(both(), 2, 16, &[1, 37, 130, 70]);
    twist(&mut case);
    case
}

fn run(cases: Vec<(impl Into<String>, Case)>) {
    let cases: Vec<_> = cases.into_iter().map(|(name, case)| (name.into(), case)).collect();
    run_table(&cases, Case::check);
}

#[test]
fn lengths_around_a_step_and_splits() {
    let tile = Tile::new(16, 2, 2);
    let lens = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100];
    let cases = [1, 2, 3, 7, 40].map(|splits| {
        let case = Case { splits: Some(splits), tile: Some(tile), ..small(both(), 2, 16, &lens) };
        (format!("{splits} splits"), case)
    });
    run(cases.to_vec());
}

/// Values in runs, keys fetched ahead, keys shared, and shuffles where subgroups have one size:
/// with rows that see all keys of a run, some and none, and lengths around a run.
#[test]
fn runs_of_values() {
    let caps = lab().gpu.capabilities();
    let plain = Tile::new(16, 2, 4);
    let mut tiles = vec![
        ("2 ahead", Tile { run: 2, ..plain }),
        ("4 and keys ahead", Tile { run: 4, prefetch: true, ..plain }),
    ];
    match caps.subgroup {
        Some((size, most)) if size == most && 16 % size == 0 => {
            tiles.push(("shuffled", Tile { run: size, subgroup: Some(size), ..plain }));
        }
        sizes => println!("no shuffles with subgroups of {sizes:?}"),
    }
    tiles.extend(shared(4).map(|tile| ("keys shared by 4", tile)));
    let mut cases = Vec::new();
    for (name, tile) in tiles {
        for (window, cache) in [(None, CacheType::F32), (Some(20), CacheType::F16)] {
            let lens = [3, 7, 8, 9, 32, 39, 40, 41, 90];
            let mut case = Case { tile: Some(tile), ..small(both(), 2, 64, &lens) };
            (case.seq_q, case.splits, case.problem.window) = (3, Some(2), window);
            (case.problem.cache.k, case.problem.cache.v) = (cache, cache);
            cases.push((format!("{name}, window {window:?}"), case));
        }
    }
    run(cases);
}

/// Keys shared by invocations that have a unit less than others, units that do not rotate among
/// them; and, in long runs, by other numbers of invocations, ahead or not, over every storage.
#[test]
fn shared_keys_of_any_dims() {
    run(shared_keys(&[(2, 2, true, CacheType::Int8)]));
}

#[test]
#[ignore = "a pipeline a case"]
fn keys_shared_by_any_number() {
    let mut kinds = Vec::new();
    for key_lanes in [2, 4, 8] {
        for (n, stored) in [CacheType::F32, CacheType::F16, CacheType::Int8].into_iter().enumerate()
        {
            kinds.push((key_lanes, 1 + n as u32 % 2, n != 1, stored));
        }
    }
    run(shared_keys(&kinds));
}

/// Of so many invocations a key, keys an invocation, ahead or not, stored so.
fn shared_keys(kinds: &[(u32, u32, bool, CacheType)]) -> Vec<(String, Case)> {
    let mut cases = Vec::new();
    for &(key_lanes, keys_each, prefetch, stored) in kinds {
        let Some(tile) = shared(key_lanes) else { continue };
        for (dim, rotary_dim) in [(40, 20), (24, 24)] {
            let mut case = small(both(), 2, dim, &[3, 37, 70]);
            case.tile = Some(Tile { keys_each, prefetch, ..tile });
            (case.problem.rotary_dim, case.seq_q, case.splits) = (rotary_dim, 2, Some(2));
            (case.problem.cache.k, case.problem.cache.v) = (stored, stored);
            let name = format!("{stored}, D {dim}, {rotary_dim} rotate, {}", tile);
            cases.push((name, case));
        }
    }
    cases
}

#[test]
fn head_dims() {
    let mut cases = Vec::new();
    for (dim, value_dim) in
        [(8, 8), (24, 24), (40, 72), (72, 40), (128, 128), (256, 256), (8, 256), (256, 8)]
    {
        cases.push((
            format!("D {dim}, D_v {value_dim}"),
            case(|c| {
                c.problem = DecodeProblem {
                    cache: phasor::cache::CacheFormat {
                        value_dim,
                        ..phasor::cache::CacheFormat::new(2, dim)
                    },
                    ..small(both(), 2, dim, &[1, 37, 130, 70]).problem
                };
            }),
        ));
    }
    run(cases);
}

/// Multi-head latent attention: one kv head, keys of 64 rotated and 512 other channels, and values
/// that are the latter.
#[test]
fn latent_attention() {
    let mut cases = Vec::new();
    let contiguous = Slots::Contiguous { capacity: 38 };
    let paged = Slots::Paged { page_size: 8, max_pages: 6 };
    for (heads, name, stored, slots) in [
        (HeadMap::plain(5), "plain", CacheType::F32, contiguous),
        (HeadMap::plain(5), "plain", CacheType::F16, paged),
        (HeadMap::ropepp(3), "both", CacheType::F16, contiguous),
    ] {
        let mut case = small(heads.unwrap(), 1, 576, &[33, 9]);
        (case.problem.rotary_dim, case.problem.cache.value_dim) = (64, 512);
        (case.problem.cache.k, case.problem.cache.v, case.slots) = (stored, stored, slots);
        // Few channels of V an invocation and few states, which compiles quickly.
        case.tile = Some(Tile::new(128, 1, 2));
        for v_in_k in [false, true] {
            case.problem.cache.v_in_k = v_in_k;
            cases.push((format!("{name}, {stored}, v_in_k {v_in_k}, {slots:?}"), case.clone()));
        }
    }
    run(cases);
}

#[test]
fn heads() {
    let head = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let mixed = HeadMap::new(4, vec![head(0, 0.3), head(0, 2.0), head(3, 1.0), head(2, 0.0)]);
    // Whose other rows are no mixtures.
    let mut pair = HeadMap::ropepp(1).unwrap().heads().to_vec();
    pair.push(head(1, PI));
    let half_a_turn = HeadMap::new(2, pair);
    let three = HeadMap::new(2, [0.0, 0.5, 1.0].map(|phi| head(1, phi)).to_vec());
    let cases = [
        ("plain", HeadMap::plain(4), 2),
        ("plain, one kv head for all", HeadMap::plain(8), 1),
        ("plain, a kv head each", HeadMap::plain(3), 3),
        ("both", HeadMap::ropepp(2), 2),
        ("both, more states than a workgroup has", HeadMap::ropepp(12), 1),
        ("imaginary", HeadMap::imago(4), 2),
        ("every other imaginary", HeadMap::imagx(4), 2),
        ("mixtures, and query heads of none", mixed, 2),
        ("half a turn alone beside a pair", half_a_turn, 1),
        ("three of one", three, 1),
    ]
    .map(|(name, heads, kv_heads)| (name, small(heads.unwrap(), kv_heads, 16, &[1, 37, 130])));
    run(cases.to_vec());
}

#[test]
fn drafts() {
    let mut cases = Vec::new();
    for seq_q in [2, 3, 8, 16] {
        for causal in [true, false] {
            cases.push((
                format!("{seq_q} rows, causal: {causal}"),
                case(|c| {
                    c.seq_q = seq_q;
                    c.lens = vec![16, 37, 130, 70];
                    c.problem.causal = causal;
                    c.splits = Some(3);
                }),
            ));
        }
    }
    run(cases);
}

/// Keys and values of different types, f32 and f16 outside; those of one type are held where pages
/// are contiguous slots.
#[test]
fn storage() {
    let mut cases = Vec::new();
    let (f32, f16, int8, q4) = (CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4);
    for (k, v, dtype, splits) in [
        (f32, int8, DType::F32, None),
        (int8, f16, DType::F16, None),
        (f16, q4, DType::F32, None),
        (q4, f32, DType::F16, Some(4)),
    ] {
        let mut case = small(both(), 2, 32, &[1, 37, 90]);
        (case.problem.cache.k, case.problem.cache.v) = (k, v);
        (case.problem.q_dtype, case.problem.out_dtype, case.splits) = (dtype, dtype, splits);
        cases.push((format!("k {k}, v {v}, {dtype} outside, splits: {splits:?}"), case));
    }
    run(cases);
}

/// Each pairing rotated here and before, whole and in part.
#[test]
fn pairings_and_rotation() {
    let (half, blocks) = (Pairing::Half, Pairing::HalfBlocks(2));
    let (interleaved, to_half) = (Pairing::Interleaved, Pairing::InterleavedToHalf);
    let mut cases = Vec::new();
    for (pairing, dim, rotary_dim, rotate) in [
        (half, 32, 32, false),
        (half, 40, 16, true),
        (half, 40, 20, false),
        (half, 24, 6, true),
        (interleaved, 32, 32, true),
        (interleaved, 40, 20, false),
        (interleaved, 24, 6, true),
        (to_half, 40, 16, false),
        (to_half, 24, 6, true),
        (blocks, 32, 32, false),
        (blocks, 40, 16, true),
    ] {
        let mut case = small(both(), 2, dim, &[3, 37, 70]);
        (case.problem.rotary_dim, case.problem.pairing) = (rotary_dim, pairing);
        case.seq_q = 2;
        case.tile = Some(Tile::new(16, 1, 2));
        let config = RopeConfig { rotary_dim, pairing, ..RopeConfig::new(dim, 10_000.0) };
        case.rope = rotate.then_some(config);
        cases.push((format!("{pairing:?}, {rotary_dim} of {dim}, rotate: {rotate}"), case));
    }
    run(cases);
}

#[test]
fn windows_softcaps_and_sinks() {
    let mut cases = Vec::new();
    let tile = Some(Tile::new(16, 1, 2));
    for (splits, seq_q) in [(1, 4), (3, 1)] {
        let lens = vec![4, 37, 130, 70];
        let new = |window, softcap, sinks: &[f32]| {
            case(|c| {
                (c.seq_q, c.lens, c.splits) = (seq_q, lens.clone(), Some(splits));
                c.tile = tile;
                (c.problem.window, c.problem.softcap) = (window, softcap);
                c.problem.sinks = sinks.to_vec();
            })
        };
        let name = format!("{splits} splits, {seq_q} rows");
        for window in [1, 5, 1000] {
            cases.push((format!("{name}, window {window}"), new(Some(window), None, &[])));
        }
        for window in [1, 2, 5] {
            let mut both_ways = new(Some(window), None, &[]);
            both_ways.problem.causal = false;
            both_ways.lens[0] = 3; // fewer keys than rows, where there are four
            cases.push((format!("{name}, window {window} both ways"), both_ways));
        }
        for cap in [0.5, 50.0] {
            cases.push((format!("{name}, softcap {cap}"), new(None, Some(cap), &[])));
        }
        let sinks = [0.0, 3.0, -2.0, f32::NEG_INFINITY, 1.0, 80.0, -80.0, 0.5];
        cases.push((format!("{name}, sinks"), new(None, None, &sinks)));
        cases.push((format!("{name}, all"), new(Some(9), Some(3.0), &sinks)));
    }
    run(cases);
}

#[test]
fn paged_and_rolling() {
    let mut cases = Vec::new();
    for page_size in [8, 24, 64] {
        let slots = Slots::Paged { page_size, max_pages: 200u32.div_ceil(page_size) };
        cases.push((format!("pages of {page_size}"), case(|c| c.slots = slots)));
    }
    for slots in [Slots::Contiguous { capacity: 40 }, Slots::Paged { page_size: 8, max_pages: 5 }] {
        for (seq_q, window) in [(1, None), (1, Some(40)), (4, Some(37)), (3, Some(5))] {
            cases.push((
                format!("rolling {slots:?}, {seq_q} rows, window {window:?}"),
                case(|c| {
                    (c.slots, c.seq_q, c.problem.window) = (slots, seq_q, window);
                    c.lens = vec![4, 39, 40, 41, 130];
                    c.problem.cache.rolling = true;
                    c.splits = Some(2);
                }),
            ));
        }
    }
    run(cases);
}

/// Biases and masks over all slots, the numbers behind a sequence's end included.
#[test]
fn biases_and_masks() {
    let tile = Some(Tile::new(16, 1, 2));
    let slopes = [0.5, 0.25, 0.125, 0.0, -0.25, 1.0, 0.0, 0.75];
    let mut cases = Vec::new();
    for kind in [Bias::Additive, Bias::Mask] {
        for (bias_extent, splits) in
            [([4, 8, 4], 1), ([1, 8, 4], 3), ([4, 1, 1], 3), ([1, 1, 1], 1)]
        {
            let lens = vec![4, 37, 130, 70];
            cases.push((
                format!("{kind:?} {bias_extent:?}, {splits} splits"),
                case(|c| {
                    (c.seq_q, c.lens, c.splits, c.tile) = (4, lens, Some(splits), tile);
                    (c.problem.bias, c.bias_extent) = (Some(kind), bias_extent);
                }),
            ));
        }
    }
    cases.push((
        "a mask over a cache that rolls".into(),
        case(|c| {
            (c.seq_q, c.lens, c.tile) = (4, vec![4, 37, 130, 70], tile);
            (c.problem.bias, c.bias_extent) = (Some(Bias::Mask), [4, 1, 4]);
            (c.problem.window, c.problem.cache.rolling) = (Some(20), true);
            c.slots = Slots::Contiguous { capacity: 40 };
        }),
    ));
    cases.push((
        "pages, ALiBi, softcap and window beside a bias".into(),
        case(|c| {
            c.slots = Slots::Paged { page_size: 8, max_pages: 17 };
            (c.seq_q, c.lens, c.tile) = (4, vec![4, 37, 130, 70], tile);
            (c.problem.bias, c.bias_extent) = (Some(Bias::Additive), [4, 8, 4]);
            (c.problem.window, c.problem.softcap) = (Some(50), Some(3.0));
            c.problem.alibi_slopes = slopes.to_vec();
        }),
    ));
    run(cases);
}

/// ALiBi and the caller's functions; sequence 0 sees a run of 16 keys, the others every third one.
#[test]
fn alibi_and_hooks() {
    let mut cases = Vec::new();
    let slopes = [0.5, 0.25, 0.125, 0.0, -0.25, 1.0, 0.0, 0.75];
    let score_mod = Some(ScoreHook::new(SLANTED).unwrap());
    let mask_mod = Some(MaskHook::new(STRIPES).unwrap());
    let tile = Some(Tile::new(16, 1, 2));
    for (name, slopes, score_mod, mask_mod, splits, seq_q) in [
        ("ALiBi", &slopes[..], None, None, 1, 4),
        ("scores", &[], score_mod.clone(), None, 3, 1),
        ("masks", &[], None, mask_mod.clone(), 1, 4),
        ("all", &slopes[..], score_mod, mask_mod, 3, 4),
    ] {
        cases.push((
            format!("{name}, {splits} splits, {seq_q} rows"),
            case(|c| {
                (c.seq_q, c.lens, c.splits, c.tile) =
                    (seq_q, vec![4, 37, 130, 70], Some(splits), tile);
                c.problem.alibi_slopes = slopes.to_vec();
                (c.problem.score_mod, c.problem.mask_mod) = (score_mod, mask_mod);
                c.problem.softcap = (name == "all").then_some(3.0);
            }),
        ));
    }
    run(cases);
}
