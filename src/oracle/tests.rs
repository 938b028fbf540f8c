//! Properties that hold whatever the numbers are, and the closed form of the two scores.

use super::*;
use crate::{HeadMap, OutputHead, Phase, rotary::Pairing};

const B: u32 = 2;
const HQ: u32 = 4;
const HKV: u32 = 2;
const SQ: u32 = 5;
const SK: u32 = 7;
const D: u32 = 12;
const DV: u32 = 3;
const ROTARY: u32 = 8;

/// Numbers in (−1, 1) without a pattern that a wrong index would hit again.
fn noise(n: u32, seed: u32) -> Vec<f64> {
    let mut state = u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(next).collect()
}

struct Data {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

impl Data {
    fn new() -> Self {
        let (q, k, v) = (B * HQ * SQ * D, B * HKV * SK * D, B * HKV * SK * DV);
        Data { q: noise(q, 1), k: noise(k, 2), v: noise(v, 3) }
    }

    fn inputs<'a>(&'a self, heads: &'a [OutputHead]) -> AttentionInputs<'a, f64> {
        AttentionInputs {
            q: &self.q,
            q_shape: [B, HQ, SQ, D],
            k: &self.k,
            k_shape: [B, HKV, SK, D],
            v: &self.v,
            v_shape: [B, HKV, SK, DV],
            rotary_dim: ROTARY,
            pairing: Pairing::Half,
            heads,
            softmax_scale: 0.3,
            causal: false,
            q_offset: None,
            kv_lens: None,
        }
    }
}

fn assert_close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!(x == y || (x - y).abs() < 1e-12, "[{i}]: {x} and {y}");
    }
}

#[test]
fn scores_match_the_closed_form_in_the_distance() {
    // One head of one pair: A_re = (q·k) cos θΔ + (q0 k1 − q1 k0) sin θΔ,
    //                       A_im = (q·k) sin θΔ − (q0 k1 − q1 k0) cos θΔ, Δ = t − s.
    let (theta, shape) = (0.7, [1, 1, 4, 2]);
    let angle = |_, s: u32, _| ((theta * f64::from(s)).cos(), (theta * f64::from(s)).sin());
    for pairing in [Pairing::Half, Pairing::Interleaved] {
        let (q, k) = (noise(8, 4), noise(8, 5));
        let rotated = |x: &[f64]| rope(x, shape, 2, pairing, angle).unwrap();
        let (q_rot, k_rot) = (rotated(&q), rotated(&k));
        let inputs = AttentionInputs {
            q: &q_rot,
            q_shape: shape,
            k: &k_rot,
            k_shape: shape,
            v: &k,
            v_shape: shape,
            rotary_dim: 2,
            pairing,
            heads: &[],
            softmax_scale: 1.0,
            causal: false,
            q_offset: None,
            kv_lens: None,
        };
        let (re, im) = scores(&inputs).unwrap();
        for t in 0..4 {
            for s in 0..4 {
                let (q, k) = (&q[2 * t..][..2], &k[2 * s..][..2]);
                let (dot, cross) = (q[0] * k[0] + q[1] * k[1], q[0] * k[1] - q[1] * k[0]);
                let (sin, cos) = (theta * (t as f64 - s as f64)).sin_cos();
                assert_close(&[re[4 * t + s]], &[dot * cos + cross * sin]);
                assert_close(&[im[4 * t + s]], &[dot * sin - cross * cos]);
            }
        }
    }
}

#[test]
fn a_phase_is_plain_attention_with_the_turned_query() {
    let data = Data::new();
    let phases = [Phase::REAL, Phase::IMAGINARY, Phase::radians(0.4), Phase::radians(-2.0)];
    let heads: Vec<OutputHead> =
        phases.into_iter().map(|phase| OutputHead { source: 3, phase }).collect();
    let got = attention(&data.inputs(&heads)).unwrap();

    let shape = [B, HQ, SQ, D];
    let q = output_queries(&data.q, shape, ROTARY, Pairing::Half, &heads).unwrap();
    // Source 3 of 4 reads kv head 1 of 2: give every turned query that one alone.
    let kv_head_1 = |x: &[f64], plane: u32| -> Vec<f64> {
        let plane = plane as usize;
        x.chunks(2 * plane).flat_map(|batch| batch[plane..].to_vec()).collect()
    };
    let (k, v) = (kv_head_1(&data.k, SK * D), kv_head_1(&data.v, SK * DV));
    let plain = HeadMap::plain(4).unwrap();
    let turned = AttentionInputs {
        q: &q,
        k: &k,
        k_shape: [B, 1, SK, D],
        v: &v,
        v_shape: [B, 1, SK, DV],
        ..data.inputs(plain.heads())
    };
    let want = attention(&turned).unwrap();
    assert_close(&got.out, &want.out);
    assert_close(&got.lse, &want.lse);
}

#[test]
fn probabilities_sum_to_one_and_give_the_output() {
    let data = Data::new();
    let map = HeadMap::ropepp(HQ).unwrap();
    let inputs = AttentionInputs { causal: true, softmax_scale: -1.5, ..data.inputs(map.heads()) };
    let p = probabilities(&inputs).unwrap();
    let out = attention(&inputs).unwrap().out;
    for (n, row) in p.chunks(SK as usize).enumerate() {
        assert_close(&[row.iter().sum()], &[1.0]);
        let i = n % SQ as usize;
        assert!(
            row.iter().enumerate().all(|(j, &p)| (p > 0.0) == (j <= i + 2)),
            "row {i}: {row:?}"
        );
        let (b, head) = (n / (8 * SQ as usize), n / SQ as usize % 8);
        let values = &data.v[(b * 2 + head / 4) * (SK * DV) as usize..];
        for c in 0..DV as usize {
            let want = (0..SK as usize).map(|j| row[j] * values[j * DV as usize + c]).sum();
            assert_close(&[out[n * DV as usize + c]], &[want]);
        }
    }
}

#[test]
fn padding_is_never_read_and_equals_a_shorter_cache() {
    let mut data = Data::new();
    let lens = [4, 0];
    for (b, &len) in lens.iter().enumerate() {
        for h in 0..HKV as usize {
            let plane = b * HKV as usize + h;
            for j in len as usize..SK as usize {
                let row = plane * SK as usize + j;
                data.k[row * D as usize..][..D as usize].fill(f64::NAN);
                data.v[row * DV as usize..][..DV as usize].fill(f64::NAN);
            }
        }
    }
    let map = HeadMap::plain(HQ).unwrap();
    let inputs = AttentionInputs { kv_lens: Some(&lens), ..data.inputs(map.heads()) };
    let got = attention(&inputs).unwrap();
    assert!(got.out.iter().all(|x| x.is_finite()));
    let (lse_0, lse_1) = got.lse.split_at((HQ * SQ) as usize);
    assert!(lse_0.iter().all(|x| x.is_finite()));
    assert!(lse_1.iter().all(|&x| x == f64::NEG_INFINITY), "batch 1 has no key");
    assert!(got.out[(HQ * SQ * DV) as usize..].iter().all(|&x| x == 0.0));
    // Four keys seen by all rows are what a causal row with offset 3 − i would see.
    for i in 0..SQ {
        let offset = Some(3 - i64::from(i));
        let causal = AttentionInputs { causal: true, q_offset: offset, kv_lens: None, ..inputs };
        let one = attention(&causal).unwrap();
        let row = (i * DV) as usize..((i + 1) * DV) as usize;
        assert_eq!(one.out[row.clone()], got.out[row]);
    }
}

#[test]
fn rows_before_all_keys_are_empty_and_extreme_offsets_do_not_wrap() {
    let data = Data::new();
    let map = HeadMap::plain(HQ).unwrap();
    let at = |offset| {
        let inputs = AttentionInputs { causal: true, q_offset: offset, ..data.inputs(map.heads()) };
        attention(&inputs).unwrap()
    };
    let empty = at(Some(-2)).lse;
    for (n, &lse) in empty.iter().enumerate() {
        assert_eq!(lse == f64::NEG_INFINITY, n % (SQ as usize) < 2, "{n}: {lse}");
    }
    assert_eq!(at(None), at(Some(2)));
    let full = attention(&data.inputs(map.heads())).unwrap();
    assert_eq!(at(Some(i64::MAX)), full);
    assert!(at(Some(i64::MIN)).out.iter().all(|&x| x == 0.0));
}

#[test]
fn values_of_one_give_one_in_both_precisions() {
    let mut data = Data::new();
    data.v.fill(1.0);
    let map = HeadMap::ropepp(HQ).unwrap();
    let truth = attention(&data.inputs(map.heads())).unwrap();
    let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let (q, k, v) = (narrow(&data.q), narrow(&data.k), narrow(&data.v));
    let wide = data.inputs(map.heads());
    let naive = attention(&AttentionInputs::<f32> {
        q: &q,
        q_shape: wide.q_shape,
        k: &k,
        k_shape: wide.k_shape,
        v: &v,
        v_shape: wide.v_shape,
        rotary_dim: wide.rotary_dim,
        pairing: wide.pairing,
        heads: wide.heads,
        softmax_scale: wide.softmax_scale,
        causal: wide.causal,
        q_offset: wide.q_offset,
        kv_lens: wide.kv_lens,
    })
    .unwrap();
    assert!(truth.out.iter().all(|x| (x - 1.0).abs() < 1e-15));
    assert!(naive.out.iter().all(|x| (x - 1.0).abs() < 1e-6));
    let worst = truth.lse.iter().zip(&naive.lse).map(|(t, &n)| (t - f64::from(n)).abs());
    let worst = worst.fold(0.0, f64::max);
    assert!(worst > 0.0 && worst < 1e-6, "f32 is really computed in f32: {worst}");
}

#[test]
fn empty_axes_give_empty_or_masked_results() {
    let data = Data::new();
    let map = HeadMap::plain(HQ).unwrap();
    let inputs = data.inputs(map.heads());
    let no_keys = AttentionInputs {
        k: &[],
        k_shape: [B, HKV, 0, D],
        v: &[],
        v_shape: [B, HKV, 0, DV],
        ..inputs
    };
    let masked = attention(&no_keys).unwrap();
    assert_eq!(masked.out, vec![0.0; (B * HQ * SQ * DV) as usize]);
    assert_eq!(masked.lse, vec![f64::NEG_INFINITY; (B * HQ * SQ) as usize]);
    let no_queries = AttentionInputs { q: &[], q_shape: [B, HQ, 0, D], ..inputs };
    let empty = attention(&no_queries).unwrap();
    assert!(empty.out.is_empty() && empty.lse.is_empty());
}

#[test]
fn what_does_not_fit_is_refused() {
    let data = Data::new();
    let map = HeadMap::plain(HQ).unwrap();
    let good = data.inputs(map.heads());
    let stray = [OutputHead { source: HQ, phase: Phase::REAL }];
    assert!(attention(&good).is_ok());
    for bad in [
        AttentionInputs { q: &data.q[1..], ..good },
        AttentionInputs { k_shape: [B, HKV, SK, D + 1], ..good },
        AttentionInputs { v_shape: [B, HKV + 1, SK, DV], ..good },
        AttentionInputs { rotary_dim: 7, ..good },
        AttentionInputs { rotary_dim: D + 2, ..good },
        AttentionInputs { heads: &stray, ..good },
        AttentionInputs { softmax_scale: f64::NAN, ..good },
        AttentionInputs { kv_lens: Some(&[1]), ..good },
    ] {
        assert!(attention(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn every_kernel_has_a_formula() {
    let rows: Vec<_> = include_str!("mod.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.split_once("` | [`"))
        .map(|(name, _)| crate::KernelKind::named(name).unwrap_or_else(|| panic!("{name}")))
        .collect();
    assert_eq!(crate::KernelKind::not_once(rows), []);
}
