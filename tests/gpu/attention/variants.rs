//! What some models add to plain attention: sliding windows, softcaps, ALiBi, sinks.

use phasor::{
    oracle::{self, Attention, AttentionInputs, Place, Real},
    plan::attention::{AttentionProblem, AttentionShape},
};

use super::{Case, control};
use crate::harness::run_table;

/// The oracle with what the problem adds, in the order that its docs state.
pub fn attend<R: Real>(
    problem: &AttentionProblem,
    inputs: &AttentionInputs<'_, R>,
) -> phasor::Result<Attention<R>> {
    let sinks: Vec<f64> = problem.sinks.iter().map(|&sink| f64::from(sink)).collect();
    let modify = |place: Place, score: R| {
        let mut score = score;
        if let Some(cap) = problem.softcap {
            let (cap, one) = (R::from_f64(cap.into()), R::from_f64(1.0));
            let e = (R::from_f64(2.0) * score / cap).exp();
            score = cap - R::from_f64(2.0) * cap / (e + one);
        }
        if let Some(&slope) = problem.alibi_slopes.get(place.head) {
            let distance = place.key as i64 - place.position;
            score = score + R::from_f64(slope.into()) * R::from_f64(distance as f64);
        }
        let window = problem.window.map_or(i64::MAX, i64::from);
        (place.key as i64 > place.position.saturating_sub(window)).then_some(score)
    };
    oracle::attention_with(inputs, &modify, (!sinks.is_empty()).then_some(&sinks))
}

#[test]
fn windows_trim_and_mask() {
    let mut cases = Vec::new();
    for window in [1, 2, 7, 16, 17, 43, 1000] {
        let case = Case::small(&AttentionProblem { window: Some(window), ..control() }).unwrap();
        for (seq_q, seq_k, query_offset) in
            [(37, 43, None), (43, 43, None), (1, 40, None), (37, 43, Some(20)), (37, 43, Some(-9))]
        {
            let shape = AttentionShape { batch: 2, seq_q, seq_k, query_offset };
            cases.push((format!("window {window}, {shape:?}"), Case { shape, ..case.clone() }));
        }
        let padded = Case { kv_lens: Some(vec![43, 11]), ..case };
        cases.push((format!("window {window}, padded"), padded));
    }
    run_table(&cases, Case::check);
}

#[test]
fn softcaps_alibi_and_sinks() {
    let slopes = vec![0.5, 0.25, 0.125, 0.0];
    let sinks = vec![0.0, 3.0, f32::NEG_INFINITY, -40.0];
    let with = |change: &dyn Fn(&mut AttentionProblem)| {
        let mut problem = control();
        change(&mut problem);
        Case::small(&problem).unwrap()
    };
    let all = with(&|p| {
        (p.softcap, p.window) = (Some(3.0), Some(9));
        (p.alibi_slopes, p.sinks) = (slopes.clone(), sinks.clone());
    });
    let cases = [
        ("softcap 0.5", with(&|p| p.softcap = Some(0.5))),
        ("softcap 50", with(&|p| p.softcap = Some(50.0))),
        ("alibi", with(&|p| p.alibi_slopes = slopes.clone())),
        ("sinks", with(&|p| p.sinks = sinks.clone())),
        ("sinks and rows without keys", {
            let case = with(&|p| p.sinks = sinks.clone());
            Case { kv_lens: Some(vec![0, 43]), ..case }
        }),
        ("sinks far above and below the scores", {
            with(&|p| p.sinks = vec![200.0, -200.0, 90.0, -90.0])
        }),
        ("all at once", all),
    ]
    .map(|(name, case)| (name.to_owned(), case));
    run_table(&cases, Case::check);
}
