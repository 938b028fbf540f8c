//! Causal prefill: the real component alone, and both in two passes, one packed pass, one fused.

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::{Budget, DType, Dispatch, HeadMap, Layout, OutputHead, Tensor, wgpu};
use wasm_bindgen::prelude::*;

use super::judge::{Judge, attended};
use super::{BUDGET, CAUTIOUS, Trial, numbers};
use crate::gpu::Gpu;
use crate::{Result, thrown};

/// Query heads, kv heads and channels.
pub const HEADS: u32 = 8;
pub const KV_HEADS: u32 = 2;
pub const DIM: u32 = 64;

#[wasm_bindgen]
impl Trial {
    /// Attention of `seq` queries over as many keys. `way` is `plain`, `two passes`, `packed` or
    /// `fused`; `rate` is what a smaller trial of the way reached, in operations a millisecond, or
    /// 0. Compiles, where the way's kernel is not there yet.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn prefill(
        gpu: &Gpu,
        way: &str,
        seq: u32,
        rate: f64,
    ) -> std::result::Result<Trial, JsError> {
        prefill(gpu, way, seq, rate).map_err(thrown)
    }
}

/// A call, what it writes, and what its output heads are.
struct Pass {
    dispatch: Dispatch,
    out: wgpu::Buffer,
    heads: Vec<OutputHead>,
    work: [u64; 2],
}

fn prefill(gpu: &Gpu, way: &str, seq: u32, rate: f64) -> Result<Trial> {
    let shared = gpu.shared();
    let both = HeadMap::ropepp(HEADS)?.heads().to_vec();
    let plain = HeadMap::plain(HEADS)?;
    let imaginary = HeadMap::imago(HEADS)?;
    let data = [(HEADS, 1), (KV_HEADS, 2), (KV_HEADS, 3)];
    let [q, k, v] = data.map(|(heads, seed)| numbers(heads * seq * DIM, seed));
    let buffers = [
        if way == "packed" { shared.upload(&turned(&q, seq)) } else { shared.upload(&q) },
        shared.upload(&k),
        shared.upload(&v),
    ];
    let pass = |map: HeadMap, heads| pass(gpu, map, heads, &buffers, seq, rate);
    let passes = match way {
        "plain" => vec![pass(plain.clone(), plain.heads().to_vec())?],
        "two passes" => vec![
            pass(plain.clone(), plain.heads().to_vec())?,
            pass(imaginary.clone(), imaginary.heads().to_vec())?,
        ],
        "packed" => vec![pass(HeadMap::plain(2 * HEADS)?, both)?],
        "fused" => vec![pass(HeadMap::ropepp(HEADS)?, both)?],
        other => return Err(format!("no way is called {other}").into()),
    };

    let mut judge = Judge::default();
    let row = |x: &'_ [f32], row: u32| x[(row * DIM) as usize..][..DIM as usize].to_vec();
    for pass in &passes {
        let last = pass.heads.len() - 1;
        for (head, place) in [(0, seq - 1), (last, seq / 3), (last, 0)] {
            let of = pass.heads[head];
            let plane = of.source / (HEADS / KV_HEADS) * seq;
            let query = row(&q, of.source * seq + place);
            let seen =
                |x: &'_ [f32]| x[(plane * DIM) as usize..][..((place + 1) * DIM) as usize].to_vec();
            let (keys, values) = (seen(&k), seen(&v));
            let truth = attended::<f64>(&query, [&keys, &values], of)?;
            let naive = attended::<f32>(&query, [&keys, &values], of)?;
            judge.row(&pass.out, (head as u32 * seq + place) as usize * DIM as usize, truth, naive);
        }
    }
    let sum = |i: usize| passes.iter().map(|pass| pass.work[i]).sum();
    let work = [sum(0), sum(1)];
    let calls = passes.into_iter().map(|pass| pass.dispatch).collect();
    Ok(Trial::new(gpu, calls, work, judge, rate))
}

fn pass(
    gpu: &Gpu,
    map: HeadMap,
    heads: Vec<OutputHead>,
    [q, k, v]: &[wgpu::Buffer; 3],
    seq: u32,
    rate: f64,
) -> Result<Pass> {
    let shared = gpu.shared();
    let (q_heads, out_heads) = (map.q_heads(), map.heads().len() as u32);
    let kernel: Attention =
        shared.kernels.attention.get(&AttentionProblem::new(map, KV_HEADS, DIM))?;
    let layout = |heads| Layout::bhsd([1, heads, seq, DIM]);
    let out = shared.storage(4 * u64::from(out_heads) * u64::from(seq) * u64::from(DIM));
    let tensor = |buffer, heads| -> Result<Tensor<'_>> {
        Ok(Tensor::new(buffer, DType::F32, layout(heads)?))
    };
    let bindings = AttentionBindings::new(
        tensor(q, q_heads)?,
        tensor(k, KV_HEADS)?,
        tensor(v, KV_HEADS)?,
        tensor(&out, out_heads)?,
    );
    let shape = AttentionShape::new(1, seq, seq);
    let plan = kernel.plan();
    let cost = plan.cost(&shape);
    // No shorter than the longest workgroup, and no more pieces than a call may have.
    let wanted = if rate > 0.0 { BUDGET * rate } else { CAUTIOUS };
    let least = plan.least_budget(&shape).limit();
    let budget = Budget::flops((wanted as u64).max(least).max(cost.flops / 4096));
    let dispatch = kernel.bind_within(&shared.device, &shape, &bindings, budget)?;
    Ok(Pass { dispatch, out, heads, work: [cost.flops, cost.bytes] })
}

/// Twice the query heads, each as it is and then turned by −π/2: what a kernel without RoPE++ is
/// handed.
fn turned(q: &[f32], seq: u32) -> Vec<f32> {
    let half = DIM as usize / 2;
    let mut all = Vec::with_capacity(2 * q.len());
    for head in q.chunks((seq * DIM) as usize) {
        all.extend_from_slice(head);
        for row in head.chunks(2 * half) {
            all.extend_from_slice(&row[half..]);
            all.extend(row[..half].iter().map(|x| -x));
        }
    }
    all
}
