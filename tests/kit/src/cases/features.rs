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
        && !has(file, &format!("{case}.d_out"))
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
                ..Variant::default()
            },
            out: vec![Expected::whole("out", out, out_shape, 2e-5)?],
            lse: vec![Expected::whole("lse", lse, lse_shape, 2e-5)?],
        }));
    }
    for case in prefixes(file, ".part0.out") {
        cases.cases.push(merge(file, &case)?);
        if has(file, &format!("{case}.q")) {
            cases.cases.extend(split(file, &case)?);
        }
    }
    Ok(cases)
}

/// The same from queries, keys and values, without a mask: attention over each part, and over all
/// keys, which decode splits in its own way.
fn split(file: &File, case: &str) -> Result<Vec<Case>> {
    let of = |name: &str| tensor4(file, &format!("{case}.{name}"));
    let ((q, q_shape), (k, k_shape), (v, v_shape)) = (of("q")?, of("k")?, of("v")?);
    let about = objects(file).into_iter().find(|(name, _)| name == case).map(|(_, about)| about);
    let softmax_scale = match about.as_ref().filter(|about| about.get("scale").is_some()) {
        Some(about) => number(about, "scale")?,
        None => f64::from(q_shape[3]).powf(-0.5),
    };
    let attend = |name: &str, keys: std::ops::Range<u32>| -> Result<Case> {
        let result = if name == "whole" { case.to_owned() } else { format!("{case}.{name}") };
        let (out, out_shape) = tensor4(file, &format!("{result}.out"))?;
        let (lse, lse_shape) = tensor3(file, &format!("{result}.lse"))?;
        let (k, k_shape) = positions(k, k_shape, keys.clone())?;
        let (v, v_shape) = positions(v, v_shape, keys)?;
        Ok(Case::Attention(AttentionCase {
            name: case_name(file, &format!("{case}.{name}")),
            q: q.data.clone(),
            q_shape,
            k: k.data,
            k_shape,
            v: v.data,
            v_shape,
            rotations: None,
            heads: HeadMap::plain(q_shape[1])?,
            softmax_scale,
            causal: false,
            kv_lens: None,
            variant: Variant::default(),
            out: vec![Expected::whole("out", out, out_shape, 2e-5)?],
            lse: vec![Expected::whole("lse", lse, lse_shape, 2e-5)?],
        }))
    };
    let mut cases = vec![attend("whole", 0..k_shape[2])?];
    for (part, cut) in counts(file, &format!("{case}.cuts"))?.windows(2).enumerate() {
        cases.push(attend(&format!("part{part}"), cut[0]..cut[1])?);
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
