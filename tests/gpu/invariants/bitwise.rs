//! The same bits run to run, whatever else is in the call and however it is cut.

use phasor::attention::{AttentionProblem, AttentionShape};
use proptest::prelude::*;

use super::property;
use crate::{
    attention::{Case, Inputs, Outcome, control},
    harness::{Result, lab},
};

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

pub(super) fn same(what: &str, a: &[f32], b: &[f32]) -> Result {
    match bits(a) == bits(b) {
        true => Ok(()),
        false => Err(format!("{what}: other bits").into()),
    }
}

fn lse(outcome: &Outcome) -> &[f32] {
    outcome.lse.as_deref().unwrap_or_default()
}

#[test]
fn two_runs_give_the_same_bits() {
    property((1..60u32, 1..60u32, any::<u16>()), |(seq_q, seq_k, seed)| {
        let shape = AttentionShape::new(2, seq_q, seq_k);
        let case = Case { shape, seed: seed.into(), ..Case::small(&control())? };
        let inputs = case.inputs();
        let [a, b] = [case.run(lab(), &inputs)?, case.run(lab(), &inputs)?];
        same("out", &a.out, &b.out)?;
        same("lse", lse(&a), lse(&b))
    });
}

#[test]
fn a_sequence_does_not_see_its_batch() {
    property((1..40u32, 1..40u32, 0..3u32, any::<u16>()), |(seq_q, seq_k, b, seed)| {
        let shape = AttentionShape::new(3, seq_q, seq_k);
        let batched = Case { shape, seed: seed.into(), ..Case::small(&control())? };
        let alone = Case { shape: AttentionShape { batch: 1, ..shape }, ..batched.clone() };
        let inputs = batched.inputs();
        let part = |x: &[f32]| {
            let one = x.len() / 3;
            x[b as usize * one..][..one].to_vec()
        };
        let one = Inputs { q: part(&inputs.q), k: part(&inputs.k), v: part(&inputs.v) };
        let (all, alone) = (batched.run(lab(), &inputs)?, alone.run(lab(), &one)?);
        same("out", &part(&all.out), &alone.out)?;
        same("lse", &part(lse(&all)), lse(&alone))
    });
}

/// A prefill in two chunks, the second of which starts anywhere, in the middle of a tile too.
#[test]
fn a_chunk_gives_the_bits_of_the_whole() {
    property((2..50u32, 0..30u32, any::<u16>()), |(rows, start, seed)| {
        let start = start % rows;
        let control = Case { seed: seed.into(), ..Case::small(&control())? };
        let whole = Case { shape: AttentionShape::new(1, rows, rows), ..control.clone() };
        let shape = AttentionShape {
            query_offset: Some(start as i32),
            ..AttentionShape::new(1, rows - start, rows)
        };
        let chunk = Case { shape, ..control };
        let inputs = whole.inputs();
        // Rows from `start` on, of every head.
        let late = |x: &[f32], row: usize| {
            let heads = x.chunks_exact(rows as usize * row);
            heads.flat_map(|head| head[start as usize * row..].to_vec()).collect::<Vec<_>>()
        };
        let part = Inputs { q: late(&inputs.q, 16), ..inputs.clone() };
        let (all, some) = (whole.run(lab(), &inputs)?, chunk.run(lab(), &part)?);
        same("out", &late(&all.out, 16), &some.out)?;
        same("lse", &late(lse(&all), 1), lse(&some))
    });
}

/// Other keys and values after row i change nothing in the rows up to i.
#[test]
fn a_causal_row_does_not_see_later_keys() {
    property((2..50u32, 0..50u32, any::<u16>()), |(rows, last, seed)| {
        let last = (last % rows) as usize;
        let shape = AttentionShape::new(1, rows, rows);
        let case = Case { shape, seed: seed.into(), ..Case::small(&control())? };
        let inputs = case.inputs();
        let mut other = Case { seed: u64::from(seed) + 1, ..case.clone() }.inputs();
        let seen = (last + 1) * 16;
        other.q.clone_from(&inputs.q);
        other.k[..seen].copy_from_slice(&inputs.k[..seen]);
        other.v[..seen].copy_from_slice(&inputs.v[..seen]);
        let [a, b] = [case.run(lab(), &inputs)?, case.run(lab(), &other)?];
        let heads = |x: &[f32]| x.len() / (rows as usize * 16);
        for head in 0..heads(&a.out) {
            let rows = head * rows as usize * 16..head * rows as usize * 16 + seen;
            same("out", &a.out[rows.clone()], &b.out[rows])?;
        }
        Ok(())
    });
}

/// Nor does a full one see the padding, whatever is in it.
#[test]
fn padding_is_not_seen() {
    let full = AttentionProblem { causal: false, ..control() };
    property((1..40u32, 0..40u32, any::<u16>()), |(seq_k, len, seed)| {
        let len = len % (seq_k + 1);
        let shape = AttentionShape::new(1, 13, seq_k);
        let case = Case { shape, seed: seed.into(), ..Case::small(&full)? };
        let padded = Case { kv_lens: Some(vec![len]), ..case.clone() };
        let short = Case { shape: AttentionShape::new(1, 13, len), ..case };
        let inputs = padded.inputs();
        let cut = |x: &[f32]| x[..len as usize * 16].to_vec();
        let part = Inputs { q: inputs.q.clone(), k: cut(&inputs.k), v: cut(&inputs.v) };
        let (a, b) = (padded.run(lab(), &inputs)?, short.run(lab(), &part)?);
        same("out", &a.out, &b.out)?;
        same("lse", lse(&a), lse(&b))
    });
}
