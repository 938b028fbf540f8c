//! The oracle's side: the truth in f64, the honest naive f32 run that says how far off a correct
//! program may be, and the attention weights for the pictures.

use phasor::{
    OutputHead,
    oracle::{self, Attended, AttentionInputs, Real},
};

use crate::{Result, layer::Layer};

/// A layer rotated in one precision.
pub struct Reference<'a, R> {
    layer: &'a Layer,
    /// Rotated queries `[B, Hq, S, D]`.
    pub q: Vec<R>,
    /// Rotated keys `[B, Hkv, S, D]`.
    pub k: Vec<R>,
    v: Vec<R>,
}

impl<'a, R: Real> Reference<'a, R> {
    /// Rotates queries and keys. Cosines and sines are the f64 ones rounded to `R`.
    pub fn new(layer: &'a Layer) -> Result<Self> {
        let frequencies = layer.rope().frequencies(layer.seq().into())?;
        let cos_sin = |_, position, pair: u32| {
            let (cos, sin) = frequencies.cos_sin(position, pair as usize);
            (R::from_f64(cos), R::from_f64(sin))
        };
        let cast = |x: &[f32]| x.iter().map(|&x| R::from_f64(f64::from(x))).collect::<Vec<R>>();
        let rotate = |x: &[f32], shape| {
            oracle::rope(&cast(x), shape, layer.head_dim(), layer.pairing, cos_sin)
        };
        Ok(Reference {
            layer,
            q: rotate(&layer.q, layer.q_shape)?,
            k: rotate(&layer.k, layer.k_shape)?,
            v: cast(&layer.v),
        })
    }

    /// Causal attention of these output heads.
    pub fn attention(&self, heads: &[OutputHead]) -> Result<Attended<R>> {
        Ok(oracle::attention(&self.inputs(heads))?)
    }

    /// Attention weights of these output heads, `[heads, S, S]`.
    pub fn probabilities(&self, heads: &[OutputHead]) -> Result<Vec<R>> {
        Ok(oracle::probabilities(&self.inputs(heads))?)
    }

    fn inputs<'b>(&'b self, heads: &'b [OutputHead]) -> AttentionInputs<'b, R> {
        AttentionInputs {
            q: &self.q,
            q_shape: self.layer.q_shape,
            k: &self.k,
            k_shape: self.layer.k_shape,
            v: &self.v,
            v_shape: self.layer.v_shape,
            rotary_dim: self.layer.head_dim(),
            pairing: self.layer.pairing,
            heads,
            softmax_scale: self.layer.softmax_scale(),
            causal: true,
            q_offset: None,
            kv_lens: None,
        }
    }
}
