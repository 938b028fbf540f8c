//! Sliding windows, soft caps and sinks, all causal and bottom-right aligned; and attention over
//! parts of the keys, to be merged.

use phasor::HeadMap;

use super::{AttentionCase, Case, Cases, Expected, MergeCase, Result, Variant, read::*};
use crate::golden::File;

pub fn recognises(file: &File) -> bool {
    let described = objects(file).iter().any(|(case, about)| described(file, case, about));
    described || !prefixes(file, ".part0.out").is_empty()
}

fn described(file: &File, case: &str, about: &serde_json::Value) -> bool {
    ["window", "softcap"].iter().any(|key| about.get(*key).is_some())
        && has(file, &format!("{case}.q"))
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for (case, about) in objects(file) {
        if !described(file, &case, &about) {
            continue;
        }
        let (q, q_shape) = tensor4(file, &format!("{case}.q"))?;
        let (k, k_shape) = tensor4(file, &format!("{case}.k"))?;
        let (v, v_shape) = tensor4(file, &format!("{case}.v"))?;
        let (out, out_shape) = tensor4(file, &format!("{case}.out"))?;
        let (lse, lse_shape) = tensor3(file, &format!("{case}.lse"))?;
        let sinks = format!("{case}.sinks");
        let given = |key: &str| about.get(key).filter(|value| !value.is_null());
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
            causal: true,
            kv_lens: None,
            variant: Variant {
                window: given("window")
                    .map(|_| number(&about, "window"))
                    .transpose()?
                    .map(|w| w as u32),
                softcap: given("softcap").map(|_| number(&about, "softcap")).transpose()?,
                sinks: if has(file, &sinks) {
                    file.tensor(&sinks)?.data.clone()
                } else {
                    Vec::new()
                },
            },
            out: vec![Expected::whole("out", out, out_shape, 2e-5)?],
            lse: vec![Expected::whole("lse", lse, lse_shape, 2e-5)?],
        }));
    }
    for case in prefixes(file, ".part0.out") {
        cases.cases.push(merge(file, &case)?);
    }
    Ok(cases)
}

/// Parts of split keys, as many as the file has, and the whole.
fn merge(file: &File, case: &str) -> Result<Case> {
    let mut parts = Vec::new();
    while has(file, &format!("{case}.part{}.out", parts.len())) {
        let part = |what: &str| file.tensor(&format!("{case}.part{}.{what}", parts.len()));
        parts.push((part("out")?.data.clone(), part("lse")?.data.clone()));
    }
    let (out, shape) = tensor4(file, &format!("{case}.out"))?;
    let (lse, lse_shape) = tensor3(file, &format!("{case}.lse"))?;
    Ok(Case::Merge(MergeCase {
        name: case_name(file, case),
        shape,
        parts,
        out: Expected::whole("out", out, shape, 2e-5)?,
        lse: Expected::whole("lse", lse, lse_shape, 2e-5)?,
    }))
}
