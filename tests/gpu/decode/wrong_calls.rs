//! Wrong calls and problems end in typed errors.

use phasor::cache::CacheType;
use phasor::decode::DecodeProblem;
use phasor::{Capabilities, Error, HeadMap};

use super::{Case, small};
use crate::harness::lab;

fn refused(twist: impl FnOnce(&mut DecodeProblem)) -> Error {
    let mut problem = small(HeadMap::ropepp(4).unwrap(), 2, 16, &[9]).problem;
    twist(&mut problem);
    problem.plan(&Capabilities::webgpu_default()).unwrap_err()
}

#[test]
fn problems_without_a_plan() {
    let whats = [
        (refused(|p| p.cache.head_dim = 12), "head_dim"),
        (refused(|p| p.cache.head_dim = 584), "head_dim"),
        (refused(|p| p.cache.value_dim = 0), "value_dim"),
        (refused(|p| p.cache.kv_heads = 3), "kv_heads"),
        (refused(|p| p.cache.kv_heads = 0), "kv_heads"),
        (refused(|p| p.cache.k = CacheType::Q4), "head_dim"),
        (refused(|p| p.max_seq_q = 17), "max_seq_q"),
        (refused(|p| p.max_seq_q = 0), "max_seq_q"),
        (refused(|p| p.softmax_scale = f32::NAN), "softmax_scale"),
        (refused(|p| p.softcap = Some(0.0)), "softcap"),
        (refused(|p| p.window = Some(0)), "window"),
        (refused(|p| (p.window, p.causal) = (Some(4), false)), "window"),
        (refused(|p| p.sinks = vec![0.0; 4]), "sinks"),
        (refused(|p| p.sinks = vec![f32::NAN; 8]), "sinks"),
        (refused(|p| p.alibi_slopes = vec![0.0; 4]), "alibi_slopes"),
        (refused(|p| p.alibi_slopes = vec![f32::NAN; 8]), "alibi_slopes"),
        (refused(|p| p.rotary_dim = 18), "rotary_dim"),
    ];
    for (error, expected) in whats {
        assert!(matches!(error, Error::Invalid { what, .. } if what == expected), "{error}");
    }
}

/// The error of a call that was right before the twist.
fn wrong(twist: impl FnOnce(&mut Case, &mut super::Inputs)) -> Error {
    let mut case = small(HeadMap::ropepp(4).unwrap(), 2, 16, &[9, 20]);
    let mut inputs = case.inputs().unwrap();
    twist(&mut case, &mut inputs);
    let Err(error) = case.run_on(lab(), &inputs, &[9, 20]) else { panic!("the call was accepted") };
    *error.downcast().unwrap()
}

#[test]
fn calls_that_do_not_fit() {
    let stored = wrong(|case, _| case.problem.cache.k = CacheType::F16);
    assert!(matches!(stored, Error::CacheType { tensor: "k_cache", .. }), "{stored}");
    let shape = wrong(|_, inputs| inputs.v_cache.layout.shape[2] -= 1);
    assert!(matches!(shape, Error::Shape { tensor: "v_cache", .. }), "{shape}");
    let stride = wrong(|_, inputs| inputs.k_cache.layout.strides[2] += 2);
    assert!(matches!(stride, Error::Stride { tensor: "k_cache", .. }), "{stride}");
    let short = wrong(|_, inputs| inputs.k_cache.layout.offset += 1 << 20);
    assert!(matches!(short, Error::BindingTooSmall { tensor: "k_cache", .. }), "{short}");
    let window = wrong(|case, _| {
        (case.problem.cache.rolling, case.problem.window) = (true, Some(26));
    });
    assert!(matches!(window, Error::Invalid { what: "window", .. }), "{window}");
}
