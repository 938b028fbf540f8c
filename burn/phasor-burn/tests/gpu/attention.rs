//! Attention and its gradients beside the formula in Burn's operations.

use burn::tensor::{DType, Tensor, TensorData};
use phasor_burn::phasor::{HeadMap, OutputHead, Phase, rotary::Pairing};
use phasor_burn::{
    AttentionOptions, Heads, Result, formula, ropepp_attention, ropepp_attention_lse,
};

use crate::support::{Numbers, close, cpu, memories, pooled, tensor};

struct Case {
    name: &'static str,
    /// B, H_q, H_kv, S_q, S_k, D, D_v.
    sizes: [usize; 7],
    options: AttentionOptions,
}

fn cases() -> Vec<Case> {
    let plain = AttentionOptions::plain;
    let ropepp = AttentionOptions::ropepp;
    let head = |source, phase| OutputHead { source, phase };
    let mixed = vec![
        head(0, Phase::radians(0.3)),
        head(3, Phase::IMAGINARY),
        head(2, Phase::REAL),
        head(0, Phase::radians(-1.1)),
    ];
    let mixed = Heads::Map(HeadMap::new(4, mixed).unwrap());
    let case = |name, sizes, options| Case { name, sizes, options };
    vec![
        case("plain", [2, 4, 2, 33, 33, 16, 16], plain()),
        case("EC", [2, 4, 4, 33, 33, 32, 32], ropepp()),
        case("EH, grouped", [1, 4, 2, 70, 70, 64, 64], ropepp()),
        case("a chunk of queries, other values", [1, 4, 1, 9, 40, 32, 48], ropepp()),
        case("any phases", [1, 4, 2, 20, 20, 32, 32], AttentionOptions::of(mixed)),
        case(
            "everything sees everything",
            [1, 2, 2, 13, 21, 32, 32],
            AttentionOptions { causal: false, ..ropepp() },
        ),
        case(
            "window, softcap, sinks, scale",
            [1, 2, 1, 40, 40, 32, 32],
            AttentionOptions {
                window: Some(7),
                softcap: Some(5.0),
                sinks: vec![0.5, -1.0, 2.0, 0.0],
                softmax_scale: Some(0.3),
                ..ropepp()
            },
        ),
        case(
            "ALiBi",
            [1, 4, 2, 24, 24, 16, 16],
            AttentionOptions { alibi_slopes: vec![0.5, 0.25, 0.125, 0.0625], ..plain() },
        ),
        case(
            "a part rotates, neighbours are pairs",
            [1, 2, 1, 17, 17, 48, 48],
            AttentionOptions { rotary_dim: Some(16), pairing: Pairing::Interleaved, ..ropepp() },
        ),
    ]
}

/// q, k, v as projections leave them, `[B, S, H, D]`, and upstream gradients.
fn inputs(case: &Case) -> ([TensorData; 3], TensorData, TensorData) {
    let [b, h_q, h_kv, s_q, s_k, d, d_v] = case.sizes;
    let mut numbers = Numbers::new(7);
    let qkv = [
        numbers.take([b, s_q, h_q, d]),
        numbers.take([b, s_k, h_kv, d]),
        numbers.take([b, s_k, h_kv, d_v]),
    ];
    let map = case.options.heads.map(h_q as u32).unwrap();
    let h = map.heads().len();
    (qkv, numbers.take([b, h, s_q, d_v]), numbers.take([b, h, s_q]))
}

type Attend =
    fn(Tensor<4>, Tensor<4>, Tensor<4>, &AttentionOptions) -> Result<(Tensor<4>, Tensor<3>)>;

/// Output, log-sum-exp, and gradients of a loss that reads both.
fn run(
    case: &Case,
    device: &burn::tensor::Device,
    attend: Attend,
) -> (Tensor<4>, Tensor<3>, [Tensor<4>; 3]) {
    let (qkv, d_out, d_lse) = inputs(case);
    let leaves = qkv.each_ref().map(|data| tensor::<4>(data, device).require_grad());
    let [q, k, v] = leaves.clone().map(|t| t.swap_dims(1, 2));
    let (out, lse) = attend(q, k, v, &case.options).unwrap();
    let loss = (out.clone() * tensor::<4>(&d_out, device)).sum()
        + (lse.clone() * tensor::<3>(&d_lse, device)).sum();
    let grads = loss.backward();
    (out.inner(), lse.inner(), leaves.map(|t| t.grad(&grads).expect("a gradient")))
}

#[test]
fn both_memories_give_the_formula_and_its_gradients() {
    for case in cases() {
        let want = run(&case, &cpu().autodiff(), formula::attention_lse);
        for (memory, device) in memories() {
            let got = run(&case, &device.clone().autodiff(), ropepp_attention_lse);
            let what = |part: &str| format!("{}, {memory}: {part}", case.name);
            let here = |t: &Tensor<4>| tensor::<4>(&t.to_data(), &cpu());
            close(&what("out"), here(&got.0), want.0.clone(), 2e-5);
            close(&what("lse"), tensor(&got.1.to_data(), &cpu()), want.1.clone(), 2e-5);
            for ((name, got), want) in ["dq", "dk", "dv"].iter().zip(&got.2).zip(&want.2) {
                close(&what(name), here(got), want.clone(), 1e-5);
            }
        }
    }
}

/// The output alone has a backward pass of its own kernel, and without autodiff there is none.
#[test]
fn without_the_log_sum_exp() {
    for case in cases().into_iter().take(3) {
        let (qkv, d_out, _) = inputs(&case);
        let run = |device: &burn::tensor::Device, kernels: bool| {
            let leaves = qkv.each_ref().map(|data| tensor::<4>(data, device).require_grad());
            let [q, k, v] = leaves.clone().map(|t| t.swap_dims(1, 2));
            let out = match kernels {
                true => ropepp_attention(q, k, v, &case.options),
                false => formula::attention(q, k, v, &case.options),
            };
            let grads = (out.unwrap() * tensor::<4>(&d_out, device)).sum().backward();
            leaves.map(|t| t.grad(&grads).expect("a gradient"))
        };
        let want = run(&cpu().autodiff(), false);
        let got = run(&pooled().autodiff(), true);
        for ((name, got), want) in ["dq", "dk", "dv"].iter().zip(got).zip(want) {
            close(name, tensor(&got.into_data(), &cpu()), want, 1e-5);
        }
        let [q, k, v] = qkv.each_ref().map(|data| tensor::<4>(data, &pooled()).swap_dims(1, 2));
        let plain = ropepp_attention(q.clone(), k.clone(), v.clone(), &case.options).unwrap();
        let (out, _) = ropepp_attention_lse(q, k, v, &case.options).unwrap();
        close("the same output", plain, out, 0.0);
    }
}

/// Only what is asked for has a gradient, and constants have none.
#[test]
fn some_inputs_are_constants() {
    let case = &cases()[1];
    let ([q, k, v], d_out, _) = inputs(case);
    let device = pooled().autodiff();
    let [q, v] = [q, v].map(|data| tensor::<4>(&data, &device));
    let k = tensor::<4>(&k, &device).require_grad();
    let [a, b, c] = [q.clone(), k.clone(), v.clone()].map(|t| t.swap_dims(1, 2));
    let out = ropepp_attention(a, b, c, &case.options).unwrap();
    let grads = (out * tensor::<4>(&d_out, &device)).sum().backward();
    assert!(k.grad(&grads).is_some() && q.grad(&grads).is_none() && v.grad(&grads).is_none());
}

/// A gradient that is broadcast, and a tensor that Burn goes on with at once, in one kernel and
/// another.
#[test]
fn lazily_before_and_after() {
    let case = &cases()[1];
    let (qkv, ..) = inputs(case);
    let run = |device: &burn::tensor::Device, kernels: bool| {
        let leaves = qkv.each_ref().map(|data| tensor::<4>(data, device).require_grad());
        let [q, k, v] = leaves.clone().map(|t| (t * 0.5 + 0.1).tanh().swap_dims(1, 2));
        let out = match kernels {
            true => ropepp_attention(q, k, v, &case.options),
            false => formula::attention(q, k, v, &case.options),
        };
        let out = (out.unwrap() * 3.0 - 1.0).swap_dims(1, 2);
        let grads = (out.clone().powi_scalar(2).sum() + out.clone().sum()).backward();
        (out.inner(), leaves.map(|t| t.grad(&grads).expect("a gradient")))
    };
    let (want, want_grads) = run(&cpu().autodiff(), false);
    // Ten times, so that memory of one call is used again by the next.
    for _ in 0..10 {
        let (got, grads) = run(&pooled().autodiff(), true);
        close("out", tensor(&got.into_data(), &cpu()), want.clone(), 2e-5);
        for (got, want) in grads.into_iter().zip(&want_grads) {
            close("a gradient", tensor(&got.into_data(), &cpu()), want.clone(), 1e-5);
        }
    }
}

/// f16 in, f16 out, f32 between: within what rounding inputs and outputs costs.
#[test]
fn half_precision() {
    assert!(pooled().supports_dtype(DType::F16), "this adapter has no f16: the test cannot run");
    let case = &cases()[2];
    let (qkv, d_out, _) = inputs(case);
    let run = |device: &burn::tensor::Device, dtype: Option<DType>| {
        // Both round what they read.
        let read = |data: &TensorData| tensor::<4>(data, &pooled()).cast(DType::F16);
        let leaves = qkv.each_ref().map(|data| {
            let t = read(data).cast(DType::F32).into_data();
            let t = tensor::<4>(&t, device);
            dtype.map_or(t.clone(), |dtype| t.cast(dtype)).require_grad()
        });
        let [q, k, v] = leaves.clone().map(|t| t.swap_dims(1, 2));
        let out = match dtype {
            Some(_) => ropepp_attention(q, k, v, &case.options),
            None => formula::attention(q, k, v, &case.options),
        }
        .unwrap();
        let d_out = tensor::<4>(&d_out, device);
        let d_out = dtype.map_or(d_out.clone(), |dtype| d_out.cast(dtype));
        let grads = (out.clone() * d_out).sum().backward();
        let grads = leaves.map(|t| t.grad(&grads).expect("a gradient"));
        assert!(dtype.is_none() || grads.iter().all(|g| g.dtype() == DType::F16));
        (out.inner().cast(DType::F32), grads.map(|g| g.cast(DType::F32)))
    };
    let (want, want_grads) = run(&cpu().autodiff(), None);
    let (got, grads) = run(&pooled().autodiff(), Some(DType::F16));
    close("out", tensor(&got.into_data(), &cpu()), want, 1e-3);
    for (got, want) in grads.into_iter().zip(want_grads) {
        close("a gradient", tensor(&got.into_data(), &cpu()), want, 5e-3);
    }
}

/// Tensors made and used on several threads, which Burn keeps streams of their own for.
#[test]
fn threads_share_a_device() {
    let case = &cases()[0];
    let (qkv, ..) = inputs(case);
    let on = |device: &burn::tensor::Device| {
        qkv.each_ref().map(|data| tensor::<4>(data, device).swap_dims(1, 2))
    };
    let [q, k, v] = on(&cpu());
    let want = formula::attention(q, k, v, &case.options).unwrap();
    let here = on(&pooled()).map(|t| t * 1.0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // One made here, two there.
                let q = tensor::<4>(&qkv[0], &pooled()).swap_dims(1, 2);
                let [_, k, v] = here.clone();
                let out = ropepp_attention(q, k, v, &case.options).unwrap() + 0.0;
                close("out", tensor(&out.into_data(), &cpu()), want.clone(), 2e-5);
            });
        }
    });
}
