//! RoFormer linear attention against length, a token from its state, and softmax attention at the
//! longest of the lengths.

use phasor::linear_attention::{
    LinearAttention, LinearAttentionBindings, LinearAttentionProblem, LinearAttentionShape, State,
};
use phasor::linear_attention_backward::{
    LinearAttentionBackward, LinearAttentionBackwardBindings, LinearAttentionBackwardProblem,
};
use phasor::rotary::{CosSin, Pairing, Positions, RopeConfig, Rotation};
use phasor::{DType, HeadMap, Layout, Tensor, oracle, wgpu};

use crate::Result;
use crate::prefill::{Sizes, Tensors};
use crate::timing::{Clock, Time, print};

pub struct Linear {
    pub sizes: Sizes,
    /// "linear", "linear, backward", "linear, one token" or "softmax".
    pub way: &'static str,
    pub time: Time,
    pub flops: u64,
    pub bytes: u64,
}

const LENGTHS: [u32; 4] = [4096, 8192, 16384, 32768];
const HEADS: u32 = 1;
const DIM: u32 = 64;
const BASE: f64 = 1e4;

pub fn measure(clock: &Clock<'_>) -> Result<Vec<Linear>> {
    println!(
        "causal RoFormer attention (elu + 1, rotated in the kernel), D {DIM}, {HEADS} head, f32"
    );
    let problem = LinearAttentionProblem {
        state: true,
        ..LinearAttentionProblem::new(HeadMap::plain(HEADS)?, HEADS, DIM)
    };
    let plan = problem.plan(&clock.gpu.capabilities())?;
    let kernel = LinearAttention::new(&clock.gpu.device, &plan)?;
    let heads = HeadMap::plain(HEADS)?;
    let mut all = Vec::new();
    // Softmax attention is checked at the first length and timed at the last, once: on a CPU it
    // takes half a minute.
    let mut checked = None;
    for seq in LENGTHS {
        let sizes = Sizes { seq, dim: DIM, heads: HEADS, kv_heads: HEADS };
        let tensors = Tensors::new(clock, sizes);
        all.extend(linear(clock, &kernel, &tensors, false)?);
        if seq == LENGTHS[0] {
            checked = Some(tensors.pass(clock, heads.clone(), None)?);
        }
        if seq == LENGTHS[3] {
            all.extend(linear(clock, &kernel, &tensors, true)?);
            let pass = tensors.bind(clock, heads.clone(), checked.as_ref())?;
            let time = Clock::new(clock.gpu, 1).race(&[&|p| pass.dispatch.record(p)]).best[0];
            let gflops = format!("{:8.1} GFLOP/s", pass.cost.flops as f64 / time.ms() * 1e-6);
            print(&format!("softmax attention, S {seq}"), &time, &gflops);
            let (flops, bytes) = (pass.cost.flops, pass.cost.bytes);
            all.push(Linear { sizes, way: "softmax", time, flops, bytes });
        }
    }
    println!("  S {} over S {}: {:.2} times the time", LENGTHS[3], LENGTHS[0], growth(&all));
    println!("  linear over softmax at S {}: {:.4}\n", LENGTHS[3], over_softmax(&all));
    Ok(all)
}

fn ms(all: &[Linear], way: &str, seq: u32) -> f64 {
    let found = all.iter().find(|point| point.way == way && point.sizes.seq == seq);
    found.map_or(f64::NAN, |point| point.time.ms())
}

/// Time at the longest length over that at the shortest, which is an eighth of it.
pub fn growth(all: &[Linear]) -> f64 {
    ms(all, "linear", LENGTHS[3]) / ms(all, "linear", LENGTHS[0])
}

/// Time over that of softmax attention, at the longest length.
pub fn over_softmax(all: &[Linear]) -> f64 {
    ms(all, "linear", LENGTHS[3]) / ms(all, "softmax", LENGTHS[3])
}

/// The whole sequence and its gradients; or its last token, going on from a state.
fn linear(
    clock: &Clock<'_>,
    kernel: &LinearAttention,
    tensors: &Tensors,
    one_token: bool,
) -> Result<Vec<Linear>> {
    let gpu = clock.gpu;
    let seq = tensors.sizes.seq;
    let shape = match one_token {
        true => LinearAttentionShape { resume: true, ..LinearAttentionShape::new(1, 1) },
        false => LinearAttentionShape::new(1, seq),
    };
    let plan = kernel.plan();
    let rows = shape.seq_q;
    let table = RopeConfig::new(DIM, BASE).table(seq, seq.into())?;
    let table_bytes = gpu.upload_bytes(table.as_bytes());
    let scratch = |elements: u32| gpu.upload(&vec![0.0; elements as usize], DType::F32);
    let (out, s, z) = (scratch(HEADS * rows * DIM), scratch(DIM * DIM), scratch(DIM));
    let workspace = scratch((plan.workspace_bytes(&shape) / 4) as u32);
    let layout = Layout {
        strides: [HEADS * seq * DIM, seq * DIM, DIM],
        offset: (seq - rows) * DIM,
        ..Layout::bhsd([1, HEADS, rows, DIM])?
    };
    let [q, k, v] =
        tensors.buffers.each_ref().map(|buffer| Tensor::new(buffer, DType::F32, layout));
    let bindings = LinearAttentionBindings {
        q,
        k,
        v,
        out: Tensor::new(&out, DType::F32, Layout::bhsd([1, HEADS, rows, DIM])?),
        workspace: workspace.as_entire_buffer_binding(),
        rotation: Some(Rotation::new(
            CosSin { binding: table_bytes.as_entire_buffer_binding(), shape: table.shape()? },
            Positions::From(seq - rows),
        )),
        q_positions: None,
        state: Some(State { s: s.as_entire_buffer_binding(), z: z.as_entire_buffer_binding() }),
        random: None,
    };
    let call = kernel.bind(&gpu.device, &shape, &bindings)?;
    gpu.run(|encoder| call.encode(encoder));
    if !one_token {
        check(&gpu.download(&out, DType::F32), tensors)?;
    }
    let time = clock.race(&[&|pass| call.record(pass)]).best[0];
    let cost = plan.cost(&shape);
    let gflops = format!("{:8.1} GFLOP/s", cost.flops as f64 / time.ms() * 1e-6);
    let (way, name) = match one_token {
        true => ("linear, one token", format!("token {seq} from the state")),
        false => ("linear", format!("S {seq}")),
    };
    print(&name, &time, &gflops);
    let sizes = tensors.sizes;
    let mut all = vec![Linear { sizes, way, time, flops: cost.flops, bytes: cost.bytes }];
    if !one_token {
        all.push(backward(clock, tensors, &bindings)?);
        let ratio = all[1].time.ms() / all[0].time.ms();
        println!("  backward over forward: {ratio:.2}");
    }
    Ok(all)
}

/// The gradients of a call; v stands for what the loss owes its output.
fn backward(
    clock: &Clock<'_>,
    tensors: &Tensors,
    forward: &LinearAttentionBindings<'_>,
) -> Result<Linear> {
    let gpu = clock.gpu;
    let shape = LinearAttentionShape::new(1, tensors.sizes.seq);
    let problem = LinearAttentionProblem::new(HeadMap::plain(HEADS)?, HEADS, DIM);
    let plan = LinearAttentionBackwardProblem::new(problem).plan(&gpu.capabilities())?;
    let elements = (HEADS * tensors.sizes.seq * DIM) as usize;
    let grads = [(); 3].map(|()| gpu.output(elements, DType::F32));
    let workspace = gpu.output((plan.workspace_bytes(&shape) / 4) as usize, DType::F32);
    let layout = forward.q.layout;
    let mut bindings = LinearAttentionBackwardBindings::new(
        [forward.q.clone(), forward.k.clone(), forward.v.clone()],
        forward.out.clone(),
        forward.v.clone(),
        grads.each_ref().map(|grad| Tensor::new(grad, DType::F32, layout)),
        workspace.as_entire_buffer_binding(),
    );
    bindings.rotation = forward.rotation.clone();
    let kernel = LinearAttentionBackward::new(&gpu.device, &plan)?;
    let call = kernel.bind(&gpu.device, &shape, &bindings)?;
    gpu.run(|encoder| call.encode(encoder));
    check_gradients(clock, &grads, tensors)?;
    let time = clock.race(&[&|pass| call.record(pass)]).best[0];
    let cost = plan.cost(&shape);
    let gflops = format!("{:8.1} GFLOP/s", cost.flops as f64 / time.ms() * 1e-6);
    print(&format!("backward, S {}", tensors.sizes.seq), &time, &gflops);
    let (flops, bytes) = (cost.flops, cost.bytes);
    Ok(Linear { sizes: tensors.sizes, way: "linear, backward", time, flops, bytes })
}

/// Holds dv of the last key to the weight that the last query gives it: no other query sees it.
fn check_gradients(clock: &Clock<'_>, grads: &[wgpu::Buffer; 3], tensors: &Tensors) -> Result<()> {
    let dim = DIM as usize;
    let [_, _, dv] = grads.each_ref().map(|grad| clock.gpu.download(grad, DType::F32));
    let wide = |x: &[f32]| x.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let [q, k, v] = tensors.data.each_ref().map(|x| wide(x));
    let (q, k) = (oracle::elu_plus_one(&q), oracle::elu_plus_one(&k));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let last = q.len() - dim;
    let below: f64 = k.chunks_exact(dim).map(|key| dot(&q[last..], key)).sum();
    // Query and key of the last row are turned alike.
    let weight = dot(&q[last..], &k[last..]) / below;
    for (c, &got) in dv[last..].iter().enumerate() {
        let error = (f64::from(got) - weight * v[last + c]).abs();
        if error.is_nan() || error > 1e-7 {
            return Err(format!("wrong dv: {got}, not {}", weight * v[last + c]).into());
        }
    }
    Ok(())
}

/// Compares some rows with the sums in f64 that define them.
fn check(out: &[f32], tensors: &Tensors) -> Result<()> {
    let dim = DIM as usize;
    let frequencies = RopeConfig::new(DIM, BASE).frequencies(tensors.sizes.seq.into())?;
    let wide = |x: &[f32]| x.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let [q, k, v] = tensors.data.each_ref().map(|x| wide(x));
    let (q, k) = (oracle::elu_plus_one(&q), oracle::elu_plus_one(&k));
    let rotate = |x: &[f64], first: u32| {
        let shape = [1, 1, (x.len() / dim) as u32, DIM];
        oracle::rope(x, shape, DIM, Pairing::Half, |_, s, pair| {
            frequencies.cos_sin(first + s, pair as usize)
        })
    };
    let heads = HeadMap::plain(HEADS)?;
    for row in [0, tensors.sizes.seq / 3, tensors.sizes.seq - 1] {
        let at = row as usize * dim..(row as usize + 1) * dim;
        let (q, k) = (&q[at.clone()], &k[..at.end]);
        let truth = oracle::linear_attention(&oracle::LinearInputs {
            q,
            q_rotated: &rotate(q, row)?,
            q_shape: [1, 1, 1, DIM],
            k,
            k_rotated: &rotate(k, 0)?,
            k_shape: [1, 1, row + 1, DIM],
            v: &v[..at.end],
            v_shape: [1, 1, row + 1, DIM],
            rotary_dim: DIM,
            pairing: Pairing::Half,
            heads: heads.heads(),
            causal: false,
        })?;
        for (&got, truth) in out[at].iter().zip(truth) {
            let error = (f64::from(got) - truth).abs();
            if error.is_nan() || error > 4e-6 {
                return Err(format!("wrong result in row {row}: {got}, not {truth}").into());
            }
        }
    }
    Ok(())
}
