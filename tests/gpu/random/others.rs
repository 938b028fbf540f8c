//! Random calls of the other kernels.

use phasor::cache::{CacheFormat, CacheType};
use phasor::kv_move::{Move, check_moves};
use phasor::linear_attention::{LinearAttentionProblem, LinearAttentionShape};
use phasor::merge::{MergeProblem, MergeShape};
use phasor::rope::{Direction, RopeProblem, RopeShape};
use phasor::rotary::{Pairing, RopeConfig};
use proptest::{prelude::*, sample::select};

use super::{Width, dtype, hold, place};
use crate::{
    harness::{Ids, Place, Rotation, Slots},
    kv_append, kv_move, linear_attention, merge, rope,
};

fn ids() -> impl Strategy<Value = Ids> {
    prop_oneof![(0..60u32).prop_map(Ids::From), Just(Ids::Shared), Just(Ids::PerBatch)]
}

fn pairing() -> impl Strategy<Value = Pairing> {
    select(vec![
        Pairing::Half,
        Pairing::Interleaved,
        Pairing::InterleavedToHalf,
        Pairing::HalfBlocks(2),
    ])
}

/// Strides of any even number of elements, where the call does not promise more.
fn rope_place(aligned: bool, heads: u32) -> BoxedStrategy<Place> {
    match aligned {
        true => place(heads).boxed(),
        false => (1..5u32).prop_map(|n| Place::Odd(2 * n)).boxed(),
    }
}

fn rope_case() -> impl Strategy<Value = rope::Case> {
    let dims = select(vec![(16, 16), (16, 8), (64, 64), (80, 32), (12, 8), (20, 20), (128, 128)]);
    let heads = (1..4u32, 0..3u32);
    let flags = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
    (dims, heads, flags, pairing(), dtype(), ids()).prop_flat_map(
        |((head_dim, rotary_dim), (q_heads, k_heads), flags, pairing, dtype, ids)| {
            let (in_place, inverse, aligned) = flags;
            let places = [q_heads, k_heads.max(1), q_heads, k_heads.max(1)]
                .map(|heads| rope_place(aligned, heads));
            (places, 0..4u32, 0..70u32, 0..1000u64).prop_map(move |(places, batch, seq, seed)| {
                let problem = RopeProblem {
                    rotary_dim,
                    pairing,
                    dtype,
                    in_place: in_place && pairing != Pairing::InterleavedToHalf,
                    direction: if inverse { Direction::Inverse } else { Direction::Forward },
                    aligned,
                    ..RopeProblem::new(q_heads, k_heads, head_dim)
                };
                let config =
                    RopeConfig { rotary_dim, pairing, ..RopeConfig::new(head_dim, 10_000.0) };
                let mut case = rope::Case::new(problem, Rotation::new(config, ids));
                case.shape = RopeShape { batch, seq };
                case.inputs = [places[0], places[1]];
                case.outputs = [places[2], places[3]];
                case.seed = seed;
                case
            })
        },
    )
}

fn append_case() -> impl Strategy<Value = kv_append::Case> {
    let types = vec![CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];
    let stored = (select(types.clone()), select(types), dtype());
    let lens = prop::collection::vec(prop_oneof![4 => 0..30u32, 1 => Just(u32::MAX)], 1..5);
    let sizes = (lens, 1..20u32, prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
    (stored, sizes, select(vec![32, 64]), pairing(), prop::bool::ANY).prop_map(
        |((k, v, dtype), (lens, seq, paged, rolling, ragged), dim, pairing, rotated)| {
            let mut case = kv_append::Case::new(dim);
            case.problem.cache =
                CacheFormat { k, v, rolling, ..CacheFormat::new(case.problem.cache.kv_heads, dim) };
            case.problem.dtype = dtype;
            case.problem.pairing = pairing;
            let config = RopeConfig { pairing, ..RopeConfig::new(dim, 10_000.0) };
            case.rotation = rotated.then(|| Rotation::new(config, Ids::From(0)));
            case.ragged =
                ragged.then(|| (0..lens.len() as u32).map(|b| (7 * b + 3) % (seq + 1)).collect());
            // A rolling cache takes lengths of any size, and positions follow from them.
            case.lens = if rolling { lens.iter().map(|len| len % 100).collect() } else { lens };
            case.seq = seq;
            case.slots = match paged {
                true => Slots::Paged { page_size: 8, max_pages: 4 },
                false => Slots::Contiguous { capacity: 32 },
            };
            case
        },
    )
}

/// Moves that may run in one call, of the few that are drawn.
fn move_case(width: Width) -> impl Strategy<Value = kv_move::Case> {
    use kv_move::{BATCH, CAPACITY};
    let types = vec![CacheType::F32, CacheType::F16, CacheType::Int8, CacheType::Q4];
    let many = (select(types.clone()), select(types), select(vec![32, 64]), pairing());
    let flags = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
    let form = match width {
        Width::Many => (many, flags).boxed(),
        // Those of the table of context shifts.
        Width::Few => (select(kv_move::SHIFTED.to_vec()), prop::bool::ANY)
            .prop_map(|((k, v, slots), rolling)| {
                ((k, v, 64, Pairing::Half), (slots.paged(), rolling, true, false))
            })
            .boxed(),
    };
    let one = (0..BATCH, 0..CAPACITY, 0..BATCH, 0..CAPACITY, 0..CAPACITY);
    let moves = prop::collection::vec(one, 1..5);
    (form, moves).prop_map(|(((k, v, dim, pairing), (paged, rolling, rotated, part)), drawn)| {
        let mut case = kv_move::Case::new(dim, &[]);
        let rotary_dim = if part { dim / 2 } else { dim };
        case.problem.cache = CacheFormat { k, v, rolling, ..case.problem.cache };
        (case.problem.pairing, case.problem.rotary_dim) = (pairing, rotary_dim);
        let config = RopeConfig { rotary_dim, pairing, ..RopeConfig::new(dim, 10_000.0) };
        case.rotation = rotated.then(|| Rotation::new(config, Ids::From(0)));
        case.slots = match paged {
            true => Slots::Paged { page_size: 8, max_pages: CAPACITY / 8 },
            false => Slots::Contiguous { capacity: CAPACITY },
        };
        case.base = if rolling { 70 } else { 0 };
        for (from, from_row, to, to_row, rows) in drawn {
            let rows = rows.min(CAPACITY - from_row.max(to_row));
            // Rows of a rolling cache that stay in their sequence stay in their slots.
            let stays = rolling && from == to;
            let (from_row, to_row) = (case.base + from_row, case.base + to_row);
            let to_row = if stays { from_row - CAPACITY } else { to_row };
            let mut more = case.moves.clone();
            more.push(Move { from, from_row, to, to_row, rows });
            if check_moves(&more, BATCH, CAPACITY, rolling).is_ok() {
                case.moves = more;
            }
        }
        case
    })
}

fn linear_case(width: Width) -> impl Strategy<Value = linear_attention::Case> {
    let few = width == Width::Few;
    (prop::bool::ANY, 0..3u32, 0..140u32, 0..80u32, [place(2), place(2), place(2), place(2)])
        .prop_map(move |(causal, batch, seq_q, seq_k, places)| {
            let plain = linear_attention::Case::plain(2, 2, 32).expect("a problem");
            let problem = LinearAttentionProblem { causal: few || causal, ..plain };
            let seq_k = if problem.causal { seq_q } else { seq_k };
            let mut case = linear_attention::Case::new(problem);
            case.shape = LinearAttentionShape { batch, seq_q, seq_k, resume: false };
            case.places = places;
            case
        })
}

fn merge_case() -> impl Strategy<Value = merge::Case> {
    let sizes = (1..9u32, 0..3u32, 1..6u32, 0..12u32, select(vec![4u32, 8, 40, 64]));
    (sizes, dtype(), dtype(), prop::bool::ANY, prop::option::of(1..4usize)).prop_map(
        |((parts, batch, heads, seq, dim), part_dtype, out_dtype, sinks, empty)| merge::Case {
            problem: MergeProblem {
                part_dtype,
                out_dtype,
                lse: true,
                sinks: if sinks {
                    (0..heads).map(|n| n as f32 - 1.0).collect()
                } else {
                    Vec::new()
                },
                ..MergeProblem::new(dim)
            },
            shape: MergeShape { parts, batch, heads, seq },
            empty,
        },
    )
}

#[test]
pub fn rope_sample() {
    hold(Width::Few, 12, rope_case(), rope::Case::check);
}

#[test]
pub fn append_sample() {
    hold(Width::Few, 6, append_case(), kv_append::Case::check);
}

#[test]
pub fn move_sample() {
    hold(Width::Few, 8, move_case(Width::Few), |case| match case.moves.is_empty() {
        true => Ok(()),
        false => case.check(),
    });
}

#[test]
pub fn linear_sample() {
    hold(Width::Few, 6, linear_case(Width::Few), linear_attention::Case::check);
}

#[test]
pub fn merge_sample() {
    hold(Width::Few, 8, merge_case(), merge::Case::check);
}

#[test]
#[ignore = "long: minutes on a software adapter"]
fn rope_long() {
    hold(Width::Many, 400, rope_case(), rope::Case::check);
}

#[test]
#[ignore = "long: minutes on a software adapter"]
fn append_long() {
    hold(Width::Many, 300, append_case(), kv_append::Case::check);
}

#[test]
#[ignore = "long: minutes on a software adapter"]
fn move_long() {
    hold(Width::Many, 300, move_case(Width::Many), |case| match case.moves.is_empty() {
        true => Ok(()),
        false => case.check(),
    });
}

#[test]
#[ignore = "long: minutes on a software adapter"]
fn linear_long() {
    hold(Width::Many, 100, linear_case(Width::Many), linear_attention::Case::check);
}

#[test]
#[ignore = "long: minutes on a software adapter"]
fn merge_long() {
    hold(Width::Many, 200, merge_case(), merge::Case::check);
}
