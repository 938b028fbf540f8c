//! Wrong calls are typed errors, before anything runs.

use burn::tensor::{DType, Device, Int, Tensor};
use phasor_burn::phasor::{self, HeadMap, rotary::RopeConfig};
use phasor_burn::{
    AttentionOptions, Error, Heads, Positions, Rotary, RotaryAttentionConfig, ropepp_attention,
};

use crate::support::{cpu, memories, pooled};

fn zeros(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::zeros(shape, device)
}

fn attend(
    [q, k, v]: [[usize; 4]; 3],
    options: &AttentionOptions,
    device: &Device,
) -> phasor_burn::Result<Tensor<4>> {
    let [q, k, v] = [q, k, v].map(|shape| zeros(shape, device));
    ropepp_attention(q, k, v, options)
}

#[track_caller]
fn invalid(result: phasor_burn::Result<Tensor<4>>, named: &str) {
    match result {
        Err(Error::Phasor(phasor::Error::Invalid { what, .. })) => assert_eq!(what, named),
        other => panic!("{named}: {other:?}"),
    }
}

#[test]
fn shapes_and_options() {
    let (device, plain) = (pooled(), AttentionOptions::plain());
    let good = [[1, 4, 8, 16], [1, 2, 8, 16], [1, 2, 8, 16]];
    attend(good, &plain, &device).unwrap();
    let [q, k, v] = good;
    invalid(attend([q, [1, 3, 8, 16], [1, 3, 8, 16]], &plain, &device), "kv_heads");
    for (shapes, tensor) in [
        ([q, [2, 2, 8, 16], v], "k"),
        ([q, [1, 2, 8, 24], v], "k"),
        ([q, k, [1, 2, 9, 16]], "v"),
        ([q, k, [1, 1, 8, 16]], "v"),
    ] {
        match attend(shapes, &plain, &device) {
            Err(Error::Phasor(phasor::Error::Shape { tensor: named, .. })) => {
                assert_eq!(named, tensor);
            }
            other => panic!("{shapes:?}: {other:?}"),
        }
    }
    let odd = [[1, 2, 8, 12], [1, 2, 8, 12], [1, 2, 8, 12]];
    invalid(attend(odd, &plain, &device), "head_dim");
    let sinks = AttentionOptions { sinks: vec![0.0; 3], ..plain.clone() };
    invalid(attend(good, &sinks, &device), "sinks");
    let window = AttentionOptions { window: Some(0), ..plain.clone() };
    invalid(attend(good, &window, &device), "window");
    let other = AttentionOptions::of(Heads::Map(HeadMap::plain(3).unwrap()));
    invalid(attend(good, &other, &device), "heads of q");
    let empty = attend([[1, 4, 0, 16], k, v], &plain, &device);
    assert!(matches!(empty, Err(Error::Empty { tensor: "q", .. })), "{empty:?}");
}

/// What has no gradient is refused where there would be one.
#[test]
fn no_gradient() {
    let wide = [[1, 2, 8, 320], [1, 2, 8, 320], [1, 2, 8, 320]];
    attend(wide, &AttentionOptions::plain(), &pooled()).unwrap();
    invalid(attend(wide, &AttentionOptions::plain(), &pooled().autodiff()), "head_dim");
}

#[test]
fn types_and_devices() {
    let options = AttentionOptions::plain();
    let q = zeros([1, 2, 8, 16], &pooled());
    let [a, b] = [q.clone(), q.clone()];
    let mixed = ropepp_attention(q.clone(), a.cast(DType::F16), b, &options);
    assert!(matches!(mixed, Err(Error::DType { tensor: "k", .. })), "{mixed:?}");
    let there = zeros([1, 2, 8, 16], &memories()[1].1);
    let elsewhere = ropepp_attention(q.clone(), q.clone(), there, &options);
    assert!(matches!(elsewhere, Err(Error::Device { tensor: "v", .. })), "{elsewhere:?}");
    let q = zeros([1, 2, 8, 16], &cpu());
    let unknown = ropepp_attention(q.clone(), q.clone(), q, &options);
    assert!(matches!(unknown, Err(Error::NotAttached { .. })), "{unknown:?}");
    assert!(unknown.unwrap_err().to_string().contains("phasor_burn::init"));
}

#[test]
fn positions() {
    let device = pooled();
    let rotary = Rotary::new(&RopeConfig::new(16, 1e4), 32, &device).unwrap();
    let x = || zeros([2, 2, 8, 16], &device);
    let long = rotary.query(x(), &Positions::From(25));
    assert!(matches!(long, Err(Error::Phasor(phasor::Error::TableTooShort { .. }))), "{long:?}");
    let ids = Tensor::<3, Int>::zeros([1, 2, 7], &device);
    let short = rotary.key(x(), &Positions::Ids(ids));
    assert!(matches!(short, Err(Error::Shape { tensor: "positions", .. })), "{short:?}");
    let narrow = rotary.key(zeros([2, 2, 8, 8], &device), &Positions::From(0));
    invalid(narrow, "rotary_dim");
}

#[test]
fn configurations() {
    let device = pooled();
    let refused = |config: RotaryAttentionConfig| match config.init(&device) {
        Err(Error::Config { what, .. }) => what,
        other => panic!("{:?}", other.map(drop)),
    };
    assert_eq!(refused(RotaryAttentionConfig::new(65, 4)), "d_model");
    assert_eq!(refused(RotaryAttentionConfig::new(64, 0)), "heads");
    assert_eq!(refused(RotaryAttentionConfig::new(64, 4).with_kv_heads(Some(3))), "kv_heads");
    let odd = RotaryAttentionConfig::new(96, 3).with_mode(phasor_burn::Mode::Eh);
    assert_eq!(refused(odd), "heads");
}
