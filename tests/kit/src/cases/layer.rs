//! Attention layers of the RoPE++ authors: from the projected queries and keys to the layer's
//! output, as one prefill and as decode steps over a growing cache.

use phasor::{HeadMap, rotary::RopeConfig};

use super::{
    AttentionCase, CacheCase, Case, Cases, Expected, Map, Order, Result, RopeCase, Rotation,
    read::*,
};
use crate::golden::{File, Tensor};

/// Layer outputs are sums over all heads, of terms up to some ten.
const LAYER: f64 = 5e-5;

pub fn recognises(file: &File) -> bool {
    has(file, "hidden_states") && has(file, "w.q_proj.weight") && has(file, "attn_out_heads")
}

pub fn parse(file: &File) -> Result<Cases> {
    let about = file.json("config")?;
    let config = rope_of(&about)?;
    let layer = Layer {
        q: tensor4(file, "q_proj_out")?,
        k: tensor4(file, "k_proj_out")?,
        v: tensor4(file, "v")?,
        heads: head_map(&about["rope_config"], tensor4(file, "q_proj_out")?.1[1])?,
        softmax_scale: number(&about, "scale")?,
        config,
        file,
    };
    let mut cases = Cases::default();
    cases.cases.push(layer.rotated("q_rot", layer.q, Some(layer.heads.clone()))?);
    cases.cases.push(layer.rotated("k_rot", layer.k, None)?);
    cases.cases.push(layer.prefill()?);
    let prefill_len = count(&about, "prefill_len")?;
    cases.cases.push(layer.cache(prefill_len)?);
    for step in prefill_len..layer.q.1[2] {
        cases.cases.push(layer.decode(prefill_len, step)?);
    }
    Ok(cases)
}

struct Layer<'a> {
    file: &'a File,
    q: (&'a Tensor, [u32; 4]),
    k: (&'a Tensor, [u32; 4]),
    v: (&'a Tensor, [u32; 4]),
    config: RopeConfig,
    heads: HeadMap,
    softmax_scale: f64,
}

impl Layer<'_> {
    fn rotation(&self, positions: std::ops::Range<u32>) -> Rotation {
        rotation(self.config.clone(), vec![positions.collect()])
    }

    fn rotated(
        &self,
        name: &str,
        (x, shape): (&Tensor, [u32; 4]),
        heads: Option<HeadMap>,
    ) -> Result<Case> {
        let rotation = self.rotation(0..shape[2]);
        let (values, out_shape) = tensor4(self.file, name)?;
        let expected = Expected::whole(name, values, out_shape, 1e-5)?.with_f32_angles(&rotation);
        Ok(Case::Rope(RopeCase {
            name: case_name(self.file, name),
            x: x.data.clone(),
            shape,
            order: Order::Bhsd,
            rotation,
            heads,
            expected: vec![expected],
        }))
    }

    /// All positions at once.
    fn prefill(&self) -> Result<Case> {
        let (out, out_shape) = tensor4(self.file, "attn_out_heads")?;
        let (lse, lse_shape) = tensor3(self.file, "lse")?;
        let output = self.file.tensor("output")?;
        Ok(Case::Attention(AttentionCase {
            name: case_name(self.file, "prefill"),
            out: vec![
                Expected::whole("attn_out_heads", out, out_shape, LAYER)?,
                self.projected("output", output.clone())?,
            ],
            lse: vec![Expected::whole("lse", lse, lse_shape, LAYER)?],
            ..self.attend(0..self.q.1[2], self.k.1[2])?
        }))
    }

    /// The cache after prefill and decode steps.
    fn cache(&self, prefill: u32) -> Result<Case> {
        let mut rotation = self.rotation(0..self.k.1[2]);
        rotation.keys = true;
        let (k, k_shape) = tensor4(self.file, "decode.k_cache")?;
        let (v, v_shape) = tensor4(self.file, "decode.v_cache")?;
        let k = Expected::whole("decode.k_cache", k, k_shape, 1e-5)?.with_f32_angles(&rotation);
        let v = Expected::whole("decode.v_cache", v, v_shape, 0.0)?;
        Ok(Case::Cache(CacheCase {
            name: case_name(self.file, "decode.cache"),
            k: self.k.0.data.clone(),
            k_shape: self.k.1,
            v: self.v.0.data.clone(),
            v_shape: self.v.1,
            rotation,
            prefill,
            expected: [k, v],
        }))
    }

    /// Position `step` alone, over the keys up to it.
    fn decode(&self, prefill_len: u32, step: u32) -> Result<Case> {
        let row = |name: &str| -> Result<Expected> {
            let (all, shape) = match name {
                "lse" => tensor3(self.file, name)?,
                _ => tensor4(self.file, name)?,
            };
            let (one, shape) = positions(all, shape, step..step + 1)?;
            Expected::whole(name, &one, shape, LAYER)
        };
        let steps = self.file.tensor("decode.output")?;
        let [batch, n, hidden] = steps.shape.as_slice() else {
            return Err(format!("decode.output: shape {:?}, not three axes", steps.shape).into());
        };
        let shape = [*batch, 1, *n, *hidden].map(|n| n as u32);
        let index = step - prefill_len;
        let (output, _) = positions(steps, shape, index..index + 1)?;
        Ok(Case::Attention(AttentionCase {
            name: case_name(self.file, &format!("decode.{index}")),
            out: vec![row("attn_out_heads")?, self.projected("decode.output", output)?],
            lse: vec![row("lse")?],
            ..self.attend(step..step + 1, step + 1)?
        }))
    }

    /// The queries of some positions against the first `seq_k` keys; nothing expected yet.
    fn attend(&self, queries: std::ops::Range<u32>, seq_k: u32) -> Result<AttentionCase> {
        let (q, q_shape) = positions(self.q.0, self.q.1, queries.clone())?;
        let (k, k_shape) = positions(self.k.0, self.k.1, 0..seq_k)?;
        let (v, v_shape) = positions(self.v.0, self.v.1, 0..seq_k)?;
        Ok(AttentionCase {
            name: String::new(),
            q: q.data,
            q_shape,
            k: k.data,
            k_shape,
            v: v.data,
            v_shape,
            rotations: Some([self.rotation(queries), self.rotation(0..seq_k)]),
            heads: self.heads.clone(),
            softmax_scale: self.softmax_scale,
            causal: true,
            kv_lens: None,
            variant: super::Variant::default(),
            out: Vec::new(),
            lse: Vec::new(),
        })
    }

    /// A layer output `[B, S, hidden]`: all heads, merged, through the output projection.
    fn projected(&self, name: &str, output: Tensor) -> Result<Expected> {
        let weight = self.file.tensor("w.o_proj.weight")?;
        let (batch, hidden) = (self.q.1[0], weight.shape.first().copied().unwrap_or(0) as u32);
        let seq = output.data.len() as u32 / (batch * hidden).max(1);
        let whole = Expected::whole(name, &output, [batch, 1, seq, hidden], LAYER)?;
        Ok(Expected { map: Map::AllHeads(weight.data.clone()), ..whole })
    }
}
