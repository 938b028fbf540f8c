//! The attention of a whole model: a cache a layer, that grows from call to call.

use phasor::attention::{Attention, AttentionBindings, AttentionProblem, AttentionShape};
use phasor::decode::{Decode, DecodeBindings, DecodeProblem, DecodeShape};
use phasor::oracle::{self, AttentionInputs, Real};
use phasor::rotary::{Positions, RopeConfig};
use phasor::{DType, HeadMap, Layout, Precision, Tensor};

use super::{
    Device,
    cache::{Cache, Slots},
    narrow, rotate, widen,
};
use crate::cases::{Result, Rotation};

/// What a model's attention layers have in common.
#[derive(Debug, Clone)]
pub struct ModelAttention {
    pub layers: usize,
    pub batch: u32,
    /// The most tokens that a sequence will have.
    pub capacity: u32,
    pub heads: HeadMap,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub softmax_scale: f64,
    pub config: RopeConfig,
}

impl ModelAttention {
    fn rotation(&self, positions: std::ops::Range<u32>) -> Rotation {
        Rotation {
            config: self.config.clone(),
            current_len: self.capacity.into(),
            positions: vec![positions.collect()],
            xpos: None,
            keys: false,
        }
    }
}

/// Causal attention of new tokens over a cache that they join.
pub trait Attend {
    /// q `[B, Hq, S, D]`, k and v `[B, Hkv, S, D]` of the tokens `past .. past + S` of every
    /// sequence, q and k not rotated. Gives `[B, H_out, S, D]`.
    fn attend(&mut self, layer: usize, past: u32, qkv: [&[f32]; 3]) -> Result<Vec<f64>>;
}

/// By the oracle, which keeps all rotated keys and all values.
pub(super) struct Naive<R> {
    model: ModelAttention,
    /// K and V of each layer, `[S, B, Hkv, D]`: a token's rows together, so that they grow.
    caches: Vec<[Vec<R>; 2]>,
}

impl<R: Real> Naive<R> {
    pub(super) fn new(model: &ModelAttention) -> Self {
        let caches = (0..model.layers).map(|_| [Vec::new(), Vec::new()]).collect();
        Self { model: model.clone(), caches }
    }
}

/// Rows of `[outer, inner, D]` as `[inner, outer, D]`.
fn exchange<R: Copy>(x: &[R], outer: usize, dim: usize) -> Vec<R> {
    let inner = x.len() / (outer * dim);
    let row = |i: usize, o: usize| &x[(o * inner + i) * dim..][..dim];
    (0..inner).flat_map(|i| (0..outer).flat_map(move |o| row(i, o).iter().copied())).collect()
}

impl<R: Real> Attend for Naive<R> {
    fn attend(&mut self, layer: usize, past: u32, [q, k, v]: [&[f32]; 3]) -> Result<Vec<f64>> {
        let ModelAttention { batch, kv_heads, head_dim, .. } = self.model;
        let (planes, dim) = ((batch * kv_heads) as usize, head_dim as usize);
        let new = (k.len() / (planes * dim)) as u32;
        let shape = |heads, seq| [batch, heads, seq, head_dim];
        let rotation = self.model.rotation(past..past + new);
        let q_shape = shape(self.model.heads.q_heads(), new);
        let q = rotate(&narrow::<R>(q), q_shape, &rotation)?;
        let k = rotate(&narrow::<R>(k), shape(kv_heads, new), &rotation)?;
        let cache = &mut self.caches[layer];
        cache[0].extend(exchange(&k, planes, dim));
        cache[1].extend(exchange(&narrow::<R>(v), planes, dim));
        let seq_k = past + new;
        let [k, v] = cache.each_ref().map(|side| exchange(side, seq_k as usize, dim));
        let got = oracle::attention(&AttentionInputs {
            q: &q,
            q_shape,
            k: &k,
            k_shape: shape(kv_heads, seq_k),
            v: &v,
            v_shape: shape(kv_heads, seq_k),
            rotary_dim: self.model.config.rotary_dim,
            pairing: self.model.config.pairing,
            heads: self.model.heads.heads(),
            softmax_scale: self.model.softmax_scale,
            causal: true,
            q_offset: None,
            kv_lens: None,
        })?;
        Ok(widen(&got.out))
    }
}

/// By the kernels: append, then prefill or, of a single token, decode.
struct OnDevice<'a> {
    device: &'a Device<'a>,
    model: ModelAttention,
    caches: Vec<Cache<'a>>,
    prefill: Attention,
    decode: Decode,
}

impl Device<'_> {
    /// Logits of models have bounds of f32.
    fn model_precision(&self) -> Precision {
        match self.precision {
            Precision::F16x3Products => Precision::F16x3Products,
            _ => Precision::F32,
        }
    }

    pub(super) fn model_attention(
        &self,
        model: &ModelAttention,
        slots: Slots,
    ) -> Result<Box<dyn Attend + '_>> {
        let ModelAttention { batch, capacity, kv_heads, head_dim, .. } = *model;
        let rotation = model.rotation(0..0);
        let mut caches = Vec::new();
        for _ in 0..model.layers {
            let dims = [head_dim; 2];
            let planes = [batch, kv_heads];
            caches.push(Cache::new(self, slots, planes, dims, capacity, Some(&rotation))?);
        }
        let first = caches.first().ok_or("a model without layers")?;
        let RopeConfig { rotary_dim, pairing, .. } = model.config;
        let softmax_scale = model.softmax_scale as f32;
        let prefill = self.attention_kernel(&AttentionProblem {
            rotary_dim,
            pairing,
            rotate_q: true,
            softmax_scale,
            precision: self.model_precision(),
            ..AttentionProblem::over(model.heads.clone(), first.format)
        })?;
        let decode = self.decode_kernel(&DecodeProblem {
            rotary_dim,
            pairing,
            rotate_q: true,
            softmax_scale,
            ..DecodeProblem::new(model.heads.clone(), first.format, batch, capacity)
        })?;
        Ok(Box::new(OnDevice { device: self, model: model.clone(), caches, prefill, decode }))
    }
}

impl Attend for OnDevice<'_> {
    fn attend(&mut self, layer: usize, past: u32, [q, k, v]: [&[f32]; 3]) -> Result<Vec<f64>> {
        let ModelAttention { batch, kv_heads, head_dim, .. } = self.model;
        let q_heads = self.model.heads.q_heads();
        let new = q.len() as u32 / (batch * q_heads * head_dim);
        let gpu = self.device.gpu;
        let cache = &self.caches[layer];
        let kv_shape = [batch, kv_heads, new, head_dim];
        cache.append(self.device, (k, kv_shape), (v, kv_shape), 0..new, past)?;

        let q = gpu.upload(q, DType::F32);
        let out_shape = [batch, self.model.heads.heads().len() as u32, new, head_dim];
        let out_len = out_shape.iter().map(|&n| n as usize).product();
        let out = gpu.output(out_len, DType::F32);
        let lens = gpu.upload_u32(&vec![past + new; batch as usize]);
        let q = Tensor::new(&q, DType::F32, Layout::bhsd([batch, q_heads, new, head_dim])?);
        let output = Tensor::new(&out, DType::F32, Layout::bhsd(out_shape)?);
        let table = cache.table().ok_or("the cache does not rotate")?;
        if new == 1 {
            let bytes = self.decode.plan().workspace_bytes(&self.decode.plan().problem().largest());
            let workspace = gpu.output(bytes as usize / 4, DType::F32);
            let bindings = DecodeBindings {
                q,
                cache: cache.bind(),
                kv_lens: lens.as_entire_buffer_binding(),
                out: output,
                lse: None,
                rotation: Some(table.at(Positions::AmongKeys)),
                bias: None,
                workspace: Some(workspace.as_entire_buffer_binding()),
            };
            let shape = DecodeShape { batch, seq_q: 1 };
            self.device.run(&self.decode, &shape, &bindings)?;
        } else {
            let lens = lens.as_entire_buffer_binding();
            let mut bindings = AttentionBindings::over(q, cache.bind(), lens, output);
            bindings.rotation = Some(table.at(Positions::AmongKeys));
            let shape = AttentionShape::new(batch, new, cache.capacity);
            self.device.run(&self.prefill, &shape, &bindings)?;
        }
        Ok(self.device.download(&out, out_len))
    }
}
