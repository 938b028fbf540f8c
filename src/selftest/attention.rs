//! The probe of a tile of attention, and what others need of it.

use super::inputs::{numbers, wide};
use super::memory::Contents;
use super::probes::{Expected, Ready};
use crate::attention::{Attention, AttentionBindings};
use crate::oracle::{self, AttentionInputs};
use crate::plan::attention::{AttentionPlan, AttentionShape};
use crate::rotary::Pairing;
use crate::{DType, HeadMap, Layout, Result};

pub(super) fn attention_inputs<'a, R>(
    [q, k, v]: [&'a [R]; 3],
    [rows, keys]: [u32; 2],
    dim: u32,
    heads: &'a HeadMap,
) -> AttentionInputs<'a, R> {
    AttentionInputs {
        q,
        q_shape: [1, heads.q_heads(), rows, dim],
        k,
        k_shape: [1, 1, keys, dim],
        v,
        v_shape: [1, 1, keys, dim],
        rotary_dim: dim,
        pairing: Pairing::Half,
        heads: heads.heads(),
        softmax_scale: f64::from(f64::from(dim).powf(-0.5) as f32),
        causal: true,
        q_offset: None,
        kv_lens: None,
    }
}

/// What `[out, lse]` should be of queries over keys, as the plan computes them where there is one.
pub(super) fn attended(
    x: [&[f32]; 3],
    sizes: [u32; 2],
    dim: u32,
    heads: &HeadMap,
    plan: Option<&AttentionPlan>,
) -> Result<[Expected; 2]> {
    let [q, k, v] = x.map(wide::<f64>);
    let truth = oracle::attention(&attention_inputs([&q, &k, &v], sizes, dim, heads))?;
    let inputs = attention_inputs(x, sizes, dim, heads);
    let naive = match plan {
        Some(plan) => {
            let (precision, keys) = (plan.problem().precision, plan.tile().block_k());
            oracle::attention_rounded(&inputs, &|_, score| Some(score), None, precision, keys)?
        }
        None => oracle::attention(&inputs)?,
    };
    Ok([
        Expected::new("out", DType::F32, truth.out, &naive.out),
        Expected::new("lse", DType::F32, truth.lse, &naive.lse),
    ])
}

/// Past the end of a tile both ways, and no row without a key.
pub(super) fn attention(device: &wgpu::Device, plan: &AttentionPlan) -> Result<Ready> {
    let (heads, dim) = (&plan.problem().heads, plan.problem().head_dim);
    let rows = plan.tile().block_q() + 3;
    let keys = rows + plan.tile().block_k();
    let x = [numbers(rows * dim, 1), numbers(keys * dim, 2), numbers(keys * dim, 3)];
    let inputs = x.each_ref().map(Vec::as_slice);
    let [out_is, lse_is] = attended(inputs, [rows, keys], dim, heads, Some(plan))?;
    let mut contents = Contents::new(&plan.capabilities);
    let [q, k, v] = x.map(|x| contents.numbers(&x, DType::F32));
    let out = contents.output(out_is.truth.len(), DType::F32);
    let lse = contents.output(lse_is.truth.len(), DType::F32);
    let memory = contents.upload(device);
    let kv = Layout::bhsd([1, 1, keys, dim])?;
    let out_layout = Layout::bhsd([1, heads.heads().len() as u32, rows, dim])?;
    let bindings = AttentionBindings {
        lse: Some(memory.at(lse)),
        ..AttentionBindings::new(
            memory.tensor(q, DType::F32, Layout::bhsd([1, 1, rows, dim])?),
            memory.tensor(k, DType::F32, kv),
            memory.tensor(v, DType::F32, kv),
            memory.tensor(out, DType::F32, out_layout),
        )
    };
    let kernel = Attention::new(device, plan)?;
    let dispatch = kernel.bind(device, &AttentionShape::new(1, rows, keys), &bindings)?;
    Ok(Ready { dispatch, memory, outputs: vec![(out, out_is), (lse, lse_is)] })
}
