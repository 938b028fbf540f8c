//! Views of larger tensors: what needs no copy, and what does.

use burn::tensor::{Device, Tensor};
use phasor_burn::{AttentionOptions, formula, ropepp_attention};

use crate::support::{Numbers, close, cpu, memories, tensor};

/// q, k and v of a tensor, on a device.
type View = fn(&Device) -> [Tensor<4>; 3];

fn fused(device: &Device) -> Tensor<4> {
    tensor(&Numbers::new(5).take([2, 24, 8, 32]), device)
}

fn heads(x: &Tensor<4>, first: usize, heads: usize) -> Tensor<4> {
    x.clone().narrow(2, first, heads).swap_dims(1, 2)
}

#[test]
fn views_are_what_they_show() {
    let views: [(&str, View); 6] = [
        // Ranges of one buffer that overlap.
        ("a fused projection", |device| {
            let qkv = fused(device);
            [heads(&qkv, 0, 4), heads(&qkv, 4, 2), heads(&qkv, 6, 2)]
        }),
        ("one tensor for all", |device| {
            let x = heads(&fused(device), 0, 2);
            [x.clone(), x.clone(), x]
        }),
        ("keys that are values", |device| {
            let x = fused(device);
            [heads(&x, 0, 4), heads(&x, 4, 2), heads(&x, 4, 2)]
        }),
        ("a broadcast key", |device| {
            let x = fused(device);
            let k = heads(&x, 4, 1).expand([2, 2, 24, 32]);
            [heads(&x, 0, 4), k, heads(&x, 6, 2)]
        }),
        // Channels apart, and rows that begin anywhere.
        ("channels that lie apart", |device| {
            let x = fused(device).swap_dims(2, 3).reshape([2, 24, 32, 8]).swap_dims(2, 3);
            [heads(&x, 0, 4), heads(&x, 4, 2), heads(&x, 6, 2)]
        }),
        ("channels from the middle of rows", |device| {
            let x = fused(device).narrow(3, 5, 24);
            [heads(&x, 0, 4), heads(&x, 4, 2), heads(&x, 6, 2)]
        }),
    ];
    let options = AttentionOptions::ropepp();
    for (name, view) in views {
        let [q, k, v] = view(&cpu());
        let want = formula::attention(q, k, v, &options).unwrap();
        for (memory, device) in memories() {
            let [q, k, v] = view(&device);
            let got = ropepp_attention(q, k, v, &options).unwrap();
            let what = format!("{name}, {memory}");
            close(&what, tensor(&got.into_data(), &cpu()), want.clone(), 2e-5);
        }
    }
}

/// The gradient of a fused projection is the sum over its parts.
#[test]
fn gradients_through_views() {
    let run = |device: &Device, kernels: bool| {
        let x = fused(device).require_grad();
        let [q, k, v] = [heads(&x, 0, 4), heads(&x, 4, 2), heads(&x, 4, 2)];
        let options = AttentionOptions::ropepp();
        let out = match kernels {
            true => ropepp_attention(q, k, v, &options),
            false => formula::attention(q, k, v, &options),
        };
        let grads = out.unwrap().powi_scalar(2).sum().backward();
        x.grad(&grads).expect("a gradient")
    };
    let want = run(&cpu().autodiff(), false);
    for (memory, device) in memories() {
        let got = run(&device.autodiff(), true);
        close(memory, tensor(&got.into_data(), &cpu()), want.clone(), 1e-5);
    }
}
