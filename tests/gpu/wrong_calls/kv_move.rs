//! Wrong calls of a move of cache rows, over pages.

use phasor::cache::{BlockTable, CacheType};
use phasor::kv_move::{KvMove, KvMoveBindings, KvMovePlan, KvMoveProblem, KvMoveShape, Move};

use super::{
    Call, World as _, calls, range,
    serving::{B, World, cache, cache_calls, format},
    whole,
};
use crate::harness::lab;

/// Five rows of the first sequence come forward by three.
const SHIFT: &[Move] = &[Move { from: 0, from_row: 7, to: 0, to_row: 4, rows: 5 }];
const FIVE_TO_NOBODY: &[Move] = &[Move { from: 0, from_row: 0, to: 2, to_row: 0, rows: 5 }];
const PAST_THE_PAGES: &[Move] = &[Move { from: 0, from_row: 0, to: 1, to_row: 12, rows: 5 }];
/// Both write rows 0 … 4 of the second.
const A_RACE: &[Move] = &[
    Move { from: 0, from_row: 0, to: 1, to_row: 0, rows: 5 },
    Move { from: 0, from_row: 8, to: 1, to_row: 4, rows: 4 },
];
const PAST_32_BITS: &[Move] = &[Move { from: 0, from_row: u32::MAX, to: 0, to_row: 0, rows: 5 }];

fn shift(w: &'static World) -> phasor::Result<Call<KvMovePlan>> {
    let bindings = KvMoveBindings { cache: cache(w)?, table: Some(w.table()) };
    Ok((KvMoveShape { batch: B, moves: SHIFT }, bindings))
}

#[test]
pub fn calls() {
    let table = calls! { World, KvMovePlan, |w, s, b|
        "to a sequence that is not there": s.moves = FIVE_TO_NOBODY
            => Invalid { what: "moves", .. };
        "rows past the last page": s.moves = PAST_THE_PAGES
            => CacheFull { sequence: 1, needed: 17, capacity: 16 };
        "positions past 32 bits": s.moves = PAST_32_BITS => CacheFull { sequence: 0, .. };
        "two moves to one place": s.moves = A_RACE => Invalid { what: "moves", .. };
        "values over the keys": b.cache.v.binding = whole(&w.k)
            => Overlap { a: "k_cache", b: "v_cache" };
        "all pages over one": b.cache.k.layout.strides[0] = 0
            => SelfOverlap { tensor: "k_cache", .. };
        "a row stride between quads": b.cache.v.layout.strides[2] += 2
            => Stride { tensor: "v_cache", .. };
        "a cache without STORAGE": b.cache.v.binding.buffer = &w.wrong.no_storage
            => Usage { tensor: "v_cache", .. };
        "keys over the table": b.cache.k.binding.buffer = &w.table
            => BindingTooSmall { tensor: "k_cache", .. };
        "no table": b.table = None => Binding { tensor: "table", .. };
        "a table of another rotary_dim": b.table.iter_mut().for_each(|t| t.shape.pairs = 4)
            => Shape { tensor: "cos_sin", .. };
        "a table shorter than the move": b.table.iter_mut().for_each(|t| t.shape.positions = 3)
            => TableTooShort { needed: 3, available: 3 };
        "a table without STORAGE":
            b.table.iter_mut().for_each(|t| t.binding.buffer = &w.wrong.no_storage)
            => Usage { tensor: "cos_sin", .. };
    };
    let plan = KvMoveProblem::new(format()).plan(&lab().gpu.capabilities()).unwrap();
    let kernel = KvMove::new(&lab().gpu.device, &plan).unwrap();
    let cache = cache_calls!(KvMovePlan);
    World::new().unwrap().refuse(lab(), &kernel, shift, table.iter().chain(&cache));
}

/// A table is of no use where keys do not turn.
#[test]
fn calls_that_turn_nothing() {
    let table = calls! { World, KvMovePlan, |w, s, b|
        "a table": b.table = Some(w.table()) => Binding { tensor: "table", .. };
    };
    let problem = KvMoveProblem { rotate: false, ..KvMoveProblem::new(format()) };
    let plan = problem.plan(&lab().gpu.capabilities()).unwrap();
    let kernel = KvMove::new(&lab().gpu.device, &plan).unwrap();
    let right = |w| shift(w).map(|(shape, b)| (shape, KvMoveBindings { table: None, ..b }));
    World::new().unwrap().refuse(lab(), &kernel, right, &table);
}
