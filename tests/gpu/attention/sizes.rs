//! Sequence lengths, query offsets, key lengths. The cases of a test share a pipeline or two.

use phasor::attention::{AttentionProblem, AttentionShape};

use super::{Case, control};
use crate::harness::run_table;

fn full() -> AttentionProblem {
    AttentionProblem { causal: false, ..control() }
}

/// S_q and S_k around the edges of the tile, primes, and nothing at all.
fn lengths(control: &Case) -> Vec<(String, Case)> {
    let (q, k) = (control.plan.tile().block_q(), control.plan.tile().block_k());
    let lengths = [
        (q, k),
        (q - 1, k),
        (q + 1, k),
        (q, k - 1),
        (q, k + 1),
        (q - 1, k - 1),
        (q + 1, k + 1),
        (2 * q + 1, 3 * k - 1),
        (2 * q - 1, 2 * k + 1),
        (17, 31),
        (31, 17),
        (97, 13),
        (13, 97),
        (101, 101),
        (1, 1),
        (2, 1),
        (1, 2),
        (1, 131),
        (131, 1),
        (5, 0),
        (0, 5),
        (0, 0),
    ];
    let case = |(seq_q, seq_k)| {
        let shape = AttentionShape::new(2, seq_q, seq_k);
        (format!("S_q {seq_q}, S_k {seq_k}"), Case { shape, ..control.clone() })
    };
    let mut cases: Vec<_> = lengths.into_iter().map(case).collect();
    for batch in [0, 1, 5] {
        let shape = AttentionShape::new(batch, 19, 23);
        cases.push((format!("B {batch}"), Case { shape, ..control.clone() }));
    }
    cases
}

#[test]
fn causal_lengths() {
    run_table(&lengths(&Case::new(&control()).unwrap()), Case::check);
}

#[test]
fn full_lengths() {
    run_table(&lengths(&Case::small(&full()).unwrap()), Case::check);
}

#[test]
fn query_offsets() {
    let control = Case::small(&control()).unwrap();
    let case = |(name, seq_q, seq_k, offset): (&str, u32, u32, i32)| {
        let shape =
            AttentionShape { query_offset: Some(offset), ..AttentionShape::new(2, seq_q, seq_k) };
        (name.to_owned(), Case { shape, ..control.clone() })
    };
    let cases = [
        ("top-left aligned", 37, 43, 0),
        ("first chunk of a prefill", 24, 64, 0),
        ("middle chunk of a prefill", 24, 64, 24),
        ("last chunk of a prefill", 16, 64, 48),
        ("one row of a decode step", 1, 64, 63),
        ("past all keys", 37, 43, 43),
        ("far past all keys", 37, 43, 1 << 29),
        ("one row before all keys", 37, 43, -1),
        ("the first rows see nothing", 37, 43, -17),
        ("the first tile sees nothing", 75, 43, -64),
        ("only the last row sees a key", 37, 43, -36),
        ("no row sees a key", 37, 43, -37),
        ("far before all keys", 37, 43, -(1 << 29)),
    ];
    run_table(&cases.map(case), Case::check);
}

/// Padding holds NaN, so that one key too many would show.
#[test]
fn key_lengths() {
    let mut cases = Vec::new();
    for (mask, problem) in [("causal", control()), ("full", full())] {
        let control = Case::small(&problem).unwrap();
        let tile = control.plan.tile().block_k();
        for (name, lens) in [
            ("all", [43, 43, 43]),
            ("none", [0, 0, 0]),
            ("one", [1, 1, 1]),
            ("one less", [42, 42, 42]),
            ("a mixture", [0, 43, 17]),
            ("around a vector", [3, 4, 5]),
            ("around a tile", [tile - 1, tile, tile + 1]),
            ("more than there are", [44, 1000, u32::MAX]),
        ] {
            let shape = AttentionShape::new(3, 37, 43);
            let kv_lens = Some(lens.to_vec());
            cases.push((format!("{mask}, {name}"), Case { shape, kv_lens, ..control.clone() }));
        }
        for (name, seq_q, seq_k) in [("more queries", 50, 20), ("no keys", 7, 0)] {
            let shape = AttentionShape::new(3, seq_q, seq_k);
            let kv_lens = Some(vec![5, 0, 20]);
            cases.push((format!("{mask}, {name}"), Case { shape, kv_lens, ..control.clone() }));
        }
    }
    let offset = AttentionShape { query_offset: Some(-9), ..AttentionShape::new(3, 37, 43) };
    let control = Case::small(&control()).unwrap();
    let kv_lens = Some(vec![0, 12, 43]);
    cases.push(("behind a negative offset".into(), Case { shape: offset, kv_lens, ..control }));
    run_table(&cases, Case::check);
}

/// The offset means nothing to a full call, whatever it is.
#[test]
fn full_calls_read_no_offset() {
    let control = Case::small(&full()).unwrap();
    let cases = [0, -1000, i32::MAX, i32::MIN].map(|offset| {
        let shape = AttentionShape { query_offset: Some(offset), ..control.shape };
        (format!("offset {offset}"), Case { shape, ..control.clone() })
    });
    run_table(&cases, Case::check);
}
