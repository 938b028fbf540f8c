//! The state: prefill in parts, decoding a token at a time, and that a call can be repeated.

use phasor::HeadMap;
use phasor::linear_attention::{FeatureMap, LinearAttentionProblem, LinearAttentionShape};
use phasor::rotary::RopeConfig;

use super::{Case, Inputs, State};
use crate::harness::{Ids, Result, Rotation, lab};

/// Tokens of the sequences here, of one batch.
const SEQ: u32 = 100;

fn case(favor: bool) -> Result<Case> {
    let feature_map = match favor {
        true => FeatureMap::Favor { features: 32, key_offset: 0.5 },
        false => FeatureMap::EluPlusOne,
    };
    let problem = LinearAttentionProblem {
        feature_map,
        state: true,
        heads: HeadMap::ropepp(2)?,
        ..Case::plain(2, 1, 32)?
    };
    let rotation = Rotation::new(RopeConfig::new(32, 10_000.0), Ids::From(0));
    Ok(Case {
        shape: LinearAttentionShape::new(1, SEQ),
        rotation: Some(rotation),
        ..Case::new(problem)
    })
}

/// The sequence cut behind these tokens, each part going on from the state of the one before.
fn in_parts(case: &Case, inputs: &Inputs, cuts: &[u32]) -> Result<(Vec<f32>, State)> {
    let dims = case.shapes();
    let (mut outputs, mut state, mut first) = (Vec::new(), None, 0);
    for &end in cuts.iter().chain(&[SEQ]) {
        let mut part = case.clone();
        part.shape = LinearAttentionShape::new(1, end - first);
        let config = RopeConfig::new(32, 10_000.0);
        part.rotation = Some(Rotation::new(config, Ids::From(first)));
        let mut own = inputs.clone();
        for (x, [_, heads, seq, dim]) in own.iter_mut().zip(dims) {
            *x = tokens(x, [heads, seq, dim], first..end);
        }
        let (out, after) = part.run(lab(), &own, state.as_ref())?;
        outputs.push((first..end, out));
        (state, first) = (Some(after), end);
    }
    // Back to [H, S, D].
    let [_, heads, seq, dim] = dims[3].map(|n| n as usize);
    let mut whole = vec![f32::NAN; heads * seq * dim];
    for (range, out) in outputs {
        let range = range.start as usize..range.end as usize;
        for h in 0..heads {
            let part = &out[h * range.len() * dim..][..range.len() * dim];
            whole[(h * seq + range.start) * dim..][..part.len()].copy_from_slice(part);
        }
    }
    Ok((whole, state.ok_or("no part")?))
}

fn tokens(x: &[f32], [heads, seq, dim]: [u32; 3], range: std::ops::Range<u32>) -> Vec<f32> {
    let row = |h: u32, s: u32| &x[((h * seq + s) * dim) as usize..][..dim as usize];
    (0..heads).flat_map(|h| range.clone().flat_map(move |s| row(h, s).to_vec())).collect()
}

#[test]
fn parts_cut_between_chunks_give_the_bits_of_one_call() {
    for favor in [false, true] {
        let case = case(favor).unwrap();
        let inputs = case.random();
        let chunk = lab().linear_attention(&case.problem).unwrap().plan().chunk();
        let whole = case.run(lab(), &inputs, None).unwrap();
        assert!(chunk < SEQ, "one chunk proves nothing");
        let cuts: Vec<u32> = (1..).map(|n| n * chunk).take_while(|&cut| cut < SEQ).collect();
        for cuts in [&cuts[..1], &cuts] {
            assert_eq!(in_parts(&case, &inputs, cuts).unwrap(), whole, "FAVOR+ {favor}: {cuts:?}");
        }
        case.hold(&inputs, &whole.0).unwrap();
    }
}

#[test]
fn decoding_token_by_token_goes_on_from_a_prefill() {
    for favor in [false, true] {
        let case = case(favor).unwrap();
        let inputs = case.random();
        let prefill = SEQ - 9;
        let cuts: Vec<u32> = (prefill..SEQ).collect();
        let (out, state) = in_parts(&case, &inputs, &cuts).unwrap();
        case.hold(&inputs, &out).unwrap();
        let (_, whole) = case.run(lab(), &inputs, None).unwrap();
        for (name, (got, wanted)) in ["S", "z"].iter().zip(state.iter().zip(&whole)) {
            let size = wanted.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (got, wanted) in got.iter().zip(wanted) {
                let error = (got - wanted).abs();
                assert!(error <= 1e-5 * size, "{name}: {got}, not {wanted}");
            }
        }
    }
}

#[test]
fn a_call_gives_the_same_bits_again_whatever_batch_it_is_part_of() {
    let case = case(false).unwrap();
    let inputs = case.random();
    let once = case.run(lab(), &inputs, None).unwrap();
    assert_eq!(case.run(lab(), &inputs, None).unwrap(), once);
    let mut batched = case.clone();
    batched.shape.batch = 3;
    let mut three = batched.random();
    for (x, own) in three.iter_mut().zip(&inputs) {
        let len = own.len();
        x[len..2 * len].copy_from_slice(own);
    }
    let (out, [s, z]) = batched.run(lab(), &three, None).unwrap();
    let middle = |x: &[f32]| x[x.len() / 3..2 * (x.len() / 3)].to_vec();
    assert_eq!((middle(&out), [middle(&s), middle(&z)]), once);
}
