//! The RoPE++ authors' rotation: every mode's queries in their head order, under every scaling.

use phasor::{
    HeadMap,
    rotary::{Pairing, RopeConfig},
};

use super::{Case, Cases, Expected, FrequenciesCase, Order, Result, RopeCase, read::*};
use crate::golden::File;

pub fn recognises(file: &File) -> bool {
    !prefixes(file, ".q_out_f64tab").is_empty()
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    let described = objects(file);
    for (case, about) in &described {
        let (set, _) = case.split_once('.').ok_or_else(|| format!("{case}: no mode"))?;
        let config = rope_of(about)?;
        let inv_freq = file.tensor(&format!("{set}.inv_freq"))?;
        let scaling = scalar(file, &format!("{set}.scaling"))?;
        cases.cases.push(Case::Frequencies(FrequenciesCase {
            name: case_name(file, &format!("{case}.inv_freq")),
            config: config.clone(),
            current_len: 1,
            inv_freq: inv_freq.data.clone(),
            bound: 4e-6,
            attention_scaling: Some(scaling),
            axes: None,
        }));
        let stated = with_frequencies(&config, inv_freq, scaling);
        for (vectors, heads) in mode(file, &about["rope_config"], "")? {
            if !has(file, &format!("{case}.{vectors}_out_f64tab")) {
                continue;
            }
            let out = format!("{case}.{vectors}_out");
            let name = case_name(file, &format!("{case}.{vectors}"));
            let far = |suffix: &str| (format!("{out}_{suffix}"), true);
            let own = vec![far("f32tab"), far("f64tab")];
            cases.cases.push(case_of(file, &name, vectors, &config, &heads, own)?);
            let exact = vec![(format!("{out}_f64tab"), false)];
            let name = format!("{name} (inv_freq)");
            cases.cases.push(case_of(file, &name, vectors, &stated, &heads, exact)?);
        }
    }
    // The numbers of `plain`, with all pairs laid interleaved.
    for mode_name in prefixes(file, ".q_out") {
        let Some(plain) = mode_name.strip_prefix("pairs.") else {
            return Err(format!("{mode_name}: neither interleaved nor described").into());
        };
        let about = file.json(&format!("plain.{plain}"))?;
        let config = rope_of(&about)?;
        let inv_freq = file.tensor("plain.inv_freq")?;
        let config = with_frequencies(&config, inv_freq, scalar(file, "plain.scaling")?);
        let config = RopeConfig { pairing: Pairing::Interleaved, ..config };
        for (vectors, heads) in mode(file, &about["rope_config"], "pairs.")? {
            let name = case_name(file, &format!("{mode_name}.{vectors}"));
            let expected = vec![(format!("{mode_name}.{vectors}_out"), false)];
            let vectors = format!("pairs.{vectors}");
            cases.cases.push(case_of(file, &name, &vectors, &config, &heads, expected)?);
        }
    }
    Ok(cases)
}

/// Queries come as the output heads of the mode, keys as they are.
fn mode(
    file: &File,
    rope_config: &serde_json::Value,
    prefix: &str,
) -> Result<[(&'static str, Option<HeadMap>); 2]> {
    let (_, shape) = tensor4(file, &format!("{prefix}q"))?;
    Ok([("q", Some(head_map(rope_config, shape[1])?)), ("k", None)])
}

fn case_of(
    file: &File,
    name: &str,
    vectors: &str,
    config: &RopeConfig,
    heads: &Option<HeadMap>,
    expected: Vec<(String, bool)>,
) -> Result<Case> {
    let (x, shape) = tensor4(file, vectors)?;
    let [b, h, s, d] = shape;
    let out_heads = heads.as_ref().map_or(h, |map| map.heads().len() as u32);
    let rotation = rotation(config.clone(), vec![counts(file, "positions")?]);
    let expect = |(tensor, f32_angles): (String, bool)| -> Result<Expected> {
        let values = file.tensor(&tensor)?;
        let whole = Expected::whole(&tensor, values, [b, out_heads, s, d], 1e-5)?;
        Ok(if f32_angles { whole.with_f32_angles(&rotation) } else { whole })
    };
    let expected = expected.into_iter().map(expect).collect::<Result<_>>()?;
    Ok(Case::Rope(RopeCase {
        name: name.to_owned(),
        x: x.data.clone(),
        shape,
        order: Order::Bhsd,
        rotation,
        heads: heads.clone(),
        expected,
    }))
}
