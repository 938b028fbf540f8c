//! Grouped queries, and which output heads a query head feeds.

use phasor::attention::{AttentionProblem, AttentionShape, Outputs};
use phasor::{HeadMap, OutputHead, Phase};

use super::{Case, control};
use crate::harness::{Result, run_table};

fn table(problems: impl IntoIterator<Item = (String, AttentionProblem)>) -> Vec<(String, Case)> {
    let case = |(name, problem)| Ok((name, Case::small(&problem)?));
    problems.into_iter().map(case).collect::<Result<_>>().unwrap()
}

fn mapped(heads: HeadMap) -> AttentionProblem {
    AttentionProblem { heads, ..control() }
}

/// Output heads as (query head, φ in degrees).
fn map(q_heads: u32, heads: &[(u32, i32)]) -> HeadMap {
    let phase = |degrees| match degrees {
        0 => Phase::REAL,
        90 => Phase::IMAGINARY,
        other => Phase::radians(f64::from(other).to_radians()),
    };
    let head = |&(source, degrees)| OutputHead { source, phase: phase(degrees) };
    HeadMap::new(q_heads, heads.iter().map(head).collect()).unwrap()
}

#[test]
fn grouped_queries() {
    let mut problems = Vec::new();
    for (q_heads, kv_heads) in [(12, 12), (12, 6), (12, 4), (12, 1), (8, 1), (16, 2), (3, 1)] {
        for (name, heads) in
            [("plain", HeadMap::plain(q_heads)), ("RoPE++", HeadMap::ropepp(q_heads))]
        {
            let problem = AttentionProblem { kv_heads, ..mapped(heads.unwrap()) };
            problems.push((format!("{name}, {q_heads} query heads, {kv_heads} kv heads"), problem));
        }
    }
    let mut cases = table(problems);
    for (_, case) in &mut cases {
        case.shape = AttentionShape::new(2, 11, 19);
    }
    run_table(&cases, Case::check);
}

/// One softmax stream a query head, its query turned by the phase of the head.
#[test]
fn one_stream_with_phases() {
    let maps = [
        ("imagh", HeadMap::imagh(4).unwrap()),
        ("imago", HeadMap::imago(4).unwrap()),
        ("imagx", HeadMap::imagx(4).unwrap()),
        ("four phases", map(4, &[(0, 30), (1, -45), (2, 180), (3, 271)])),
        ("heads in another order", map(4, &[(3, 90), (0, 0), (2, 90), (1, 10)])),
        ("query heads that feed nothing", map(6, &[(1, 90), (2, 0), (4, 10), (5, 90)])),
    ];
    run_table(&table(maps.map(|(name, map)| (name.into(), mapped(map)))), Case::check);
}

/// Two streams a query head that are the real and the imaginary score themselves.
#[test]
fn two_streams() {
    let maps = [
        ("interleaved", HeadMap::ropepp(4).unwrap()),
        (
            "real ones first",
            map(4, &[(0, 0), (1, 0), (2, 0), (3, 0), (0, 90), (1, 90), (2, 90), (3, 90)]),
        ),
        ("some heads real only", map(4, &[(0, 0), (0, 90), (1, 0), (2, 0), (2, 90), (3, 0)])),
        ("in disorder", map(4, &[(2, 0), (0, 0), (3, 0), (2, 90), (1, 0), (1, 90), (0, 90)])),
        (
            "two pairs of one query head",
            map(2, &[(0, 0), (0, 90), (0, 0), (0, 90), (1, 0), (1, 90), (1, 0)]),
        ),
    ];
    run_table(&table(maps.map(|(name, map)| (name.into(), mapped(map)))), Case::check);
}

/// Two streams that are mixtures of both scores.
#[test]
fn mixed_streams() {
    let maps = [
        (
            "two phases each",
            map(4, &[(0, 10), (0, 100), (1, -30), (1, 60), (2, 0), (2, 90), (3, 45), (3, 45)]),
        ),
        ("half a turn alone beside a pair", map(2, &[(0, 0), (0, 90), (1, 180)])),
        (
            "imaginary before real",
            map(4, &[(0, 90), (0, 0), (1, 90), (1, 0), (2, 90), (2, 0), (3, 90), (3, 0)]),
        ),
        ("three of one query head", map(2, &[(0, 0), (0, 90), (0, 45), (1, 45), (1, 0), (1, 90)])),
        ("one here and two there", map(4, &[(0, 90), (1, 0), (1, 90), (2, 70), (3, 0), (3, 10)])),
        (
            "five of one query head",
            map(2, &[(0, 0), (0, 72), (0, 144), (0, 216), (0, 288), (1, 90)]),
        ),
    ];
    run_table(&table(maps.map(|(name, map)| (name.into(), mapped(map)))), Case::check);
}

#[test]
fn split_outputs() {
    let problem = |(name, heads): (&str, HeadMap)| {
        (name.to_owned(), AttentionProblem { outputs: Outputs::Split, ..mapped(heads) })
    };
    let maps = [
        ("real and imaginary", HeadMap::ropepp(2).unwrap()),
        ("in another order", map(2, &[(1, 0), (0, 0), (0, 90), (1, 90)])),
        ("imaginary and real", map(2, &[(0, 90), (1, 90), (0, 0), (1, 0)])),
        ("any phases", map(2, &[(0, 20), (0, -70), (1, 0), (1, 200)])),
    ];
    let cases = maps.map(problem).map(|(name, problem)| (name, Case::quick(&problem).unwrap()));
    run_table(&cases, Case::check);
}

/// Without a log-sum-exp, and the factor on the scores: small, none, negative, large.
#[test]
fn softmax_scales() {
    let mut cases = Vec::new();
    for softmax_scale in [0.25, 0.01, 0.0, -0.3, 3.0] {
        let problem = AttentionProblem { softmax_scale, lse: false, ..control() };
        cases.push((format!("scale {softmax_scale}"), Case::small(&problem).unwrap()));
    }
    // Scores of thousands: one key takes it all, and nothing overflows.
    let problem = AttentionProblem { softmax_scale: 1.0, lse: false, ..control() };
    cases.push(("huge scores".into(), Case { size: 30.0, ..Case::small(&problem).unwrap() }));
    let tiny = Case { size: 1e-6, ..Case::small(&problem).unwrap() };
    cases.push(("tiny inputs".into(), tiny));
    run_table(&cases, Case::check);
}
