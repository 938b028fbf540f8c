//! Sliding window, softcap, ALiBi and sinks.

use phasor::attention::{AttentionProblem, AttentionShape};

use super::{Case, control};
use crate::harness::run_table;

/// Everything below is a run-time number.
#[test]
fn windows() {
    let mut cases = Vec::new();
    for window in [1, 2, 8, 15, 16, 17, 43, 1000, 1 << 29] {
        let problem = AttentionProblem { window: Some(window), ..control() };
        cases.push((format!("window {window}"), Case::small(&problem).unwrap()));
    }
    let problem = AttentionProblem { window: Some(9), ..control() };
    let control = Case::small(&problem).unwrap();
    let shape = |seq_q, seq_k, offset| AttentionShape {
        query_offset: Some(offset),
        ..AttentionShape::new(2, seq_q, seq_k)
    };
    for (name, shape) in [
        ("more queries than keys", shape(40, 12, -28)),
        ("in the middle of the keys", shape(7, 90, 50)),
        ("before the keys", shape(20, 30, -14)),
        ("partly past the keys", shape(20, 30, 22)),
        ("past the keys", shape(20, 30, 100)),
    ] {
        cases.push((format!("window 9, {name}"), Case { shape, ..control.clone() }));
    }
    let kv_lens = Some(vec![30, 3]);
    cases.push(("window 9, padded keys".into(), Case { kv_lens, ..control }));
    run_table(&cases, Case::check);
}

/// Encoders: ALiBi and windows go both ways, wherever the queries stand.
#[test]
fn both_ways() {
    let plain = AttentionProblem { causal: false, ..control() };
    let alibi_slopes = vec![0.5, 0.25, 0.125, 0.0];
    let alibi = AttentionProblem { alibi_slopes, ..plain.clone() };
    let mut cases = Vec::new();
    for window in [1, 2, 9, 16, 17, 43, 1 << 29] {
        let problem = AttentionProblem { window: Some(window), ..plain.clone() };
        cases.push((format!("window {window}"), Case::quick(&problem).unwrap()));
    }
    let window = Case::quick(&AttentionProblem { window: Some(9), ..plain }).unwrap();
    let both = AttentionProblem { window: Some(9), ..alibi.clone() };
    let [alibi, both] = [&alibi, &both].map(|problem| Case::quick(problem).unwrap());
    for (name, case) in [("window 9", &window), ("ALiBi", &alibi), ("ALiBi, window 9", &both)] {
        for (seq_q, seq_k, offset) in
            [(37, 43, 6), (7, 90, 50), (20, 30, -14), (20, 30, 22), (20, 30, 100), (40, 12, -28)]
        {
            let query_offset = Some(offset);
            let shape = AttentionShape { query_offset, ..AttentionShape::new(2, seq_q, seq_k) };
            let name = format!("{name}, {seq_q} queries of {seq_k} keys from {offset} on");
            cases.push((name, Case { shape, ..case.clone() }));
        }
        let kv_lens = Some(vec![30, 3]);
        cases.push((format!("{name}, padded keys"), Case { kv_lens, ..case.clone() }));
    }
    run_table(&cases, Case::check);
}

#[test]
fn softcap_alibi_and_sinks() {
    let plain = control();
    let slopes = vec![0.5, 0.25, 0.125, 0.0];
    let sinks = vec![0.7, -2.0, f32::NEG_INFINITY, 30.0];
    let problems = [
        ("softcap", AttentionProblem { softcap: Some(2.0), ..plain.clone() }),
        ("softcap far above the scores", AttentionProblem { softcap: Some(1e4), ..plain.clone() }),
        ("ALiBi", AttentionProblem { alibi_slopes: slopes.clone(), ..plain.clone() }),
        ("sinks", AttentionProblem { sinks: sinks.clone(), ..plain.clone() }),
        (
            "all of them",
            AttentionProblem {
                softcap: Some(3.0),
                alibi_slopes: slopes,
                sinks,
                window: Some(21),
                ..plain
            },
        ),
    ];
    let mut cases = Vec::new();
    for (name, problem) in problems {
        // In tiles in workgroup memory all of them at once.
        let small = name == "all of them";
        let case = if small { Case::small(&problem) } else { Case::quick(&problem) }.unwrap();
        let masked = AttentionShape { query_offset: Some(-5), ..case.shape };
        cases.push((name.to_owned(), case.clone()));
        cases.push((format!("{name}, masked rows"), Case { shape: masked, ..case }));
    }
    run_table(&cases, Case::check);
}
