//! The backward pass: both streams at once against two passes of one stream each, and against the
//! forward pass.

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::attention_backward::{
    AttentionBackward, AttentionBackwardBindings, AttentionBackwardProblem,
};
use phasor::{Cost, DType, Dispatch, HeadMap, Layout, Tensor, wgpu};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::Result;
use crate::prefill::{Sizes, Tensors};
use crate::timing::{Clock, Time, print};

/// Times of one set of sizes.
pub struct Backward {
    pub sizes: Sizes,
    /// Name, time and work of each way, in the order of [`WAYS`].
    pub ways: [(Time, Cost); 5],
    pub fused_over_two_passes: f64,
    pub fused_over_forward: f64,
    pub plain_over_forward: f64,
}

/// Plain is the real component alone.
pub const WAYS: [&str; 5] = [
    "forward, plain",
    "forward, fused",
    "backward, plain",
    "backward, two passes",
    "backward, fused",
];

/// A forward call and its backward call, and where they write.
struct Pass {
    forward: Dispatch,
    backward: Dispatch,
    costs: [Cost; 2],
    gradients: [wgpu::Buffer; 3],
}

pub fn measure(clock: &Clock<'_>, quick: bool) -> Result<Vec<Backward>> {
    let software = clock.gpu.capabilities().software;
    let (lengths, heads): (&[u32], u32) = match (software, quick) {
        (true, true) => (&[512], 1),
        (true, false) => (&[512, 1024], 1),
        (false, true) => (&[4096], 16),
        (false, false) => (&[1024, 4096], 16),
    };
    let mut all = Vec::new();
    for dim in [64, 128] {
        for &seq in lengths {
            let sizes = Sizes { seq, dim, heads, kv_heads: heads };
            println!(
                "backward of causal attention, S {seq}, D {dim}, {heads} query and kv heads, f32"
            );
            all.push(compare(clock, sizes)?);
        }
    }
    Ok(all)
}

fn compare(clock: &Clock<'_>, sizes: Sizes) -> Result<Backward> {
    let heads = sizes.heads;
    let tensors = Tensors::new(clock, sizes);
    let mut rng = SmallRng::seed_from_u64(2);
    let plane = (sizes.seq * sizes.dim) as usize;
    let d_out: Vec<f32> =
        (0..2 * heads as usize * plane).map(|_| rng.random_range(-1.0..1.0)).collect();
    // Real and imaginary heads by turns.
    let half = |n: usize| -> Vec<f32> {
        d_out.chunks_exact(plane).skip(n).step_by(2).flatten().copied().collect()
    };
    let real = bind(clock, &tensors, HeadMap::plain(heads)?, &half(0))?;
    let imaginary = bind(clock, &tensors, HeadMap::imago(heads)?, &half(1))?;
    let fused = bind(clock, &tensors, HeadMap::ropepp(heads)?, &d_out)?;
    for pass in [&real, &imaginary, &fused] {
        clock.gpu.run(|encoder| {
            pass.forward.encode(encoder);
            pass.backward.encode(encoder);
        });
    }
    check(clock, [&real, &imaginary, &fused])?;
    let race = clock.race(&[
        &|pass| real.forward.record(pass),
        &|pass| fused.forward.record(pass),
        &|pass| real.backward.record(pass),
        &|pass| {
            real.backward.record(pass);
            imaginary.backward.record(pass);
        },
        &|pass| fused.backward.record(pass),
    ]);
    let mut both = real.costs[1];
    both.flops += imaginary.costs[1].flops;
    both.bytes += imaginary.costs[1].bytes;
    let costs = [real.costs[0], fused.costs[0], real.costs[1], both, fused.costs[1]];
    let ways = [0, 1, 2, 3, 4].map(|i| (race.best[i], costs[i]));
    for (name, (time, cost)) in WAYS.iter().zip(&ways) {
        print(name, time, &format!("{:8.1} GFLOP/s", cost.flops as f64 / time.ms() * 1e-6));
    }
    let all = Backward {
        sizes,
        ways,
        fused_over_two_passes: race.ratio(4, 3),
        fused_over_forward: race.ratio(4, 1),
        plain_over_forward: race.ratio(2, 0),
    };
    println!(
        "  fused / two passes {:.2}, backward / forward {:.2} fused, {:.2} plain\n",
        all.fused_over_two_passes, all.fused_over_forward, all.plain_over_forward
    );
    Ok(all)
}

fn bind(clock: &Clock<'_>, tensors: &Tensors, heads: HeadMap, d_out: &[f32]) -> Result<Pass> {
    let Sizes { seq, dim, heads: q_heads, kv_heads } = tensors.sizes;
    let (gpu, device) = (clock.gpu, &clock.gpu.device);
    let caps = gpu.capabilities();
    let heads_out = heads.heads().len() as u32;
    let problem = AttentionProblem { lse: true, ..AttentionProblem::new(heads, kv_heads, dim) };
    let plan = problem.plan(&caps)?;
    let shape = AttentionShape::new(1, seq, seq);
    let buffer = |heads: u32, dim: u32| gpu.output((heads * seq * dim) as usize, DType::F32);
    let tensor = |buffer, heads| -> Result<Tensor<'_>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, heads, seq, dim])?))
    };
    let [q, k, v] = &tensors.buffers;
    let qkv = [tensor(q, q_heads)?, tensor(k, kv_heads)?, tensor(v, kv_heads)?];
    let (out, lse) = (buffer(heads_out, dim), buffer(heads_out, 1));
    let [q, k, v] = qkv.clone();
    let mut bindings = AttentionBindings::new(q, k, v, tensor(&out, heads_out)?);
    bindings.lse = Some(lse.as_entire_buffer_binding());
    let forward = Attention::new(device, &plan)?.bind(device, &shape, &bindings)?;

    let backward_plan = AttentionBackwardProblem::new(problem).plan(&caps)?;
    let d_out = gpu.upload(d_out, DType::F32);
    let gradients = [buffer(q_heads, dim), buffer(kv_heads, dim), buffer(kv_heads, dim)];
    let bytes = backward_plan.workspace_bytes(&shape, seq);
    let workspace = gpu.output(bytes as usize / 4, DType::F32);
    let [dq, dk, dv] = &gradients;
    let bindings = AttentionBackwardBindings::new(
        qkv,
        (tensor(&out, heads_out)?, lse.as_entire_buffer_binding()),
        tensor(&d_out, heads_out)?,
        [tensor(dq, q_heads)?, tensor(dk, kv_heads)?, tensor(dv, kv_heads)?],
        workspace.as_entire_buffer_binding(),
    );
    let kernel = AttentionBackward::new(device, &backward_plan)?;
    let backward = kernel.bind(device, &shape, &bindings)?;
    Ok(Pass {
        forward,
        backward,
        costs: [plan.cost(&shape), backward_plan.cost(&shape)],
        gradients,
    })
}

/// The gradients of both streams at once are those of each, added up.
fn check(clock: &Clock<'_>, [real, imaginary, fused]: [&Pass; 3]) -> Result<()> {
    for (n, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
        let read = |pass: &Pass| clock.gpu.download(&pass.gradients[n], DType::F32);
        let (re, im, got) = (read(real), read(imaginary), read(fused));
        for (i, &got) in got.iter().enumerate() {
            let wanted = re[i] + im[i];
            let error = (got - wanted).abs();
            if error.is_nan() || error > 2e-5 {
                return Err(format!("wrong {name}: element {i} is {got}, not {wanted}").into());
            }
        }
    }
    Ok(())
}
