//! Attention of given queries, keys and values: causal, full, cross, decode, chunk, right padding.

use phasor::HeadMap;

use super::{AttentionCase, Case, Cases, Expected, Result, Variant, read::*};
use crate::golden::File;

pub fn recognises(file: &File) -> bool {
    objects(file).iter().any(|(case, about)| {
        about["kind"].is_string()
            && has(file, &format!("{case}.q"))
            && has(file, &format!("{case}.out"))
    })
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for (case, about) in objects(file) {
        let (q, q_shape) = tensor4(file, &format!("{case}.q"))?;
        let (k, k_shape) = tensor4(file, &format!("{case}.k"))?;
        let (v, v_shape) = tensor4(file, &format!("{case}.v"))?;
        let kind = text(&about, "kind")?;
        let causal = match kind {
            "causal" | "decode" | "chunk" | "bigscore" | "keypad" => true,
            "full" | "cross" => false,
            other => return Err(format!("{case}: kind {other:?} is not known").into()),
        };
        // Scores of some hundred make the softmax that much more sensitive to their rounding.
        let bound = if kind == "bigscore" { 1e-4 } else { 2e-5 };
        let expect = |name: &str, tensor, shape| -> Result<Vec<Expected>> {
            Ok(vec![Expected::whole(name, tensor, shape, bound)?])
        };
        let (out, out_shape) = tensor4(file, &format!("{case}.out"))?;
        let (lse, lse_shape) = tensor3(file, &format!("{case}.lse"))?;
        let kv_len = format!("{case}.kv_len");
        cases.cases.push(Case::Attention(AttentionCase {
            name: case_name(file, &case),
            q: q.data.clone(),
            q_shape,
            k: k.data.clone(),
            k_shape,
            v: v.data.clone(),
            v_shape,
            rotations: None,
            heads: HeadMap::plain(q_shape[1])?,
            softmax_scale: number(&about, "scale")?,
            causal,
            kv_lens: has(file, &kv_len).then(|| counts(file, &kv_len)).transpose()?,
            variant: Variant::default(),
            out: expect("out", out, out_shape)?,
            lse: expect("lse", lse, lse_shape)?,
        }));
    }
    Ok(cases)
}
