//! Attention by phasor's kernels beside the same in Burn's operations: time, and what Burn's
//! allocator has reserved after it. `cargo run --example bench -- [largest S]`

use std::time::{Duration, Instant};

use burn::tensor::module::attention as burns_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::wgpu::WgpuSetup;
use burn::tensor::{Device, Distribution, Tensor};
use phasor_burn::{AttentionOptions, Heads, Result, formula, ropepp_attention};

type Error = Box<dyn std::error::Error>;

const BATCH: usize = 1;
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const DIM: usize = 64;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Phasor,
    Formula,
    Burn,
}

fn attend(way: Way, [q, k, v]: [Tensor<4>; 3], options: &AttentionOptions) -> Result<Tensor<4>> {
    match way {
        Way::Phasor => ropepp_attention(q, k, v, options),
        Way::Formula => formula::attention(q, k, v, options),
        Way::Burn => {
            // It has no groups: keys and values are repeated.
            let repeat = |t: Tensor<4>| {
                let [b, h, s, d] = t.dims();
                let shape = [b, h, HEADS / KV_HEADS, s, d];
                t.reshape([b, h, 1, s, d]).expand(shape).reshape([b, HEADS, s, d])
            };
            let causal = AttentionModuleOptions { is_causal: true, ..Default::default() };
            Ok(burns_attention(q, repeat(k), repeat(v), None, None, causal))
        }
    }
}

/// Least time of a call, and bytes reserved by an allocator that has done nothing else.
fn measure(
    setup: &WgpuSetup,
    way: Way,
    options: &AttentionOptions,
    seq: usize,
    backward: bool,
) -> Result<(Duration, u64), Error> {
    // Burn once more on the same device: an allocator of its own.
    let plain = phasor_burn::share(setup, Device::wgpu_options())?;
    let device = if backward { plain.clone().autodiff() } else { plain.clone() };
    let random = |heads: usize| {
        let shape = [BATCH, seq, heads, DIM];
        Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device)
    };
    let leaves = [random(HEADS), random(KV_HEADS), random(KV_HEADS)];
    let leaves = leaves.map(|t| if backward { t.require_grad() } else { t });
    plain.sync()?;
    let call = || -> Result<Duration, Error> {
        let start = Instant::now();
        let qkv = leaves.clone().map(|t| t.swap_dims(1, 2));
        let out = attend(way, qkv, options)?;
        if backward {
            let gradients = out.sum().backward();
            let all = leaves.clone().map(|leaf| leaf.grad(&gradients));
            plain.sync()?;
            drop(all);
        } else {
            plain.sync()?;
            drop(out);
        }
        Ok(start.elapsed())
    };
    call()?; // compiles
    let (begin, mut least, mut times) = (Instant::now(), Duration::MAX, 0);
    while times < 3 || (begin.elapsed() < Duration::from_secs(1) && times < 50) {
        least = least.min(call()?);
        times += 1;
    }
    let reserved = plain.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved);
    Ok((least, reserved))
}

fn main() -> Result<(), Error> {
    let largest = std::env::args().nth(1).map_or(Ok(2048), |n| n.parse())?;
    let (_, setup) = phasor_burn::init(Device::wgpu_options())?;
    let info = setup.adapter.get_info();
    println!("{} ({:?}, {})", info.name, info.backend, info.driver_info);
    println!("{BATCH} x {HEADS} heads, {KV_HEADS} of k and v, D {DIM}, f32, causal; ms and MiB");
    println!("| heads, S | pass | phasor | formula | burn's attention |\n|---|---|---|---|---|");
    for options in [AttentionOptions::plain(), AttentionOptions::ropepp()] {
        let real = options.heads == Heads::Plain;
        for seq in [256, 512, 1024, 2048].into_iter().filter(|&seq| seq <= largest) {
            for backward in [false, true] {
                let name = if real { "real" } else { "real and imaginary" };
                let pass = if backward { "forward and backward" } else { "forward" };
                print!("| {name}, {seq} | {pass} |");
                for way in [Way::Phasor, Way::Formula, Way::Burn] {
                    // Burn's own has no imaginary heads.
                    if way == Way::Burn && !real {
                        print!(" |");
                        continue;
                    }
                    let (time, reserved) = measure(&setup, way, &options, seq, backward)?;
                    let (ms, mib) =
                        (time.as_secs_f64() * 1e3, reserved as f64 / f64::from(1 << 20));
                    print!(" {ms:.2} ms, {mib:.0} MiB |");
                }
                println!();
            }
        }
    }
    Ok(())
}
