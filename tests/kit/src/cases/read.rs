//! Small readers that every kind of file uses; each names what it misses.

use std::collections::BTreeSet;

use phasor::{
    HeadMap,
    rotary::{Like, ModelRope, RopeConfig, RopeRule},
};
use serde_json::Value;

use super::{Result, Rotation};
use crate::golden::{File, Tensor};

/// The rotary embedding that a reference file describes, with keys as in a `config.json` and no
/// model type: half-split pairs, turned forward.
pub fn rope_of(about: &Value) -> Result<RopeConfig> {
    let model = ModelRope::from_json_like(&about.to_string(), &Like::model("llama"))?;
    Ok(model.only()?.rope.clone())
}

/// `file/case`.
pub fn case_name(file: &File, case: &str) -> String {
    format!("{}/{case}", file.name)
}

/// Whether the file holds a tensor of this name.
pub fn has(file: &File, name: &str) -> bool {
    file.names().contains(&name)
}

/// Prefixes of all tensors that end in `suffix`, sorted.
pub fn prefixes(file: &File, suffix: &str) -> BTreeSet<String> {
    file.names().iter().filter_map(|name| name.strip_suffix(suffix)).map(str::to_owned).collect()
}

/// A float tensor of rank 4 with its shape.
pub fn tensor4<'a>(file: &'a File, name: &str) -> Result<(&'a Tensor, [u32; 4])> {
    let tensor = file.tensor(name)?;
    let shape = tensor.shape4().ok_or_else(|| {
        format!("{}: {name} has shape {:?}, not four axes", file.name, tensor.shape)
    })?;
    Ok((tensor, shape))
}

/// A float tensor of rank 3, `[B, H, S]`, as `[B, H, S, 1]`.
pub fn tensor3<'a>(file: &'a File, name: &str) -> Result<(&'a Tensor, [u32; 4])> {
    let tensor = file.tensor(name)?;
    let [b, h, s] = tensor.shape.as_slice() else {
        return Err(
            format!("{}: {name}: shape {:?}, not three axes", file.name, tensor.shape).into()
        );
    };
    Ok((tensor, [*b as u32, *h as u32, *s as u32, 1]))
}

/// Integers that must not be negative.
pub fn counts(file: &File, name: &str) -> Result<Vec<u32>> {
    let (_, data) = file.integers(name)?;
    let negative = |_| format!("{}: {name} holds a negative number", file.name);
    Ok(data.iter().map(|&x| u32::try_from(x)).collect::<Result<_, _>>().map_err(negative)?)
}

/// A number in a JSON object.
pub fn number(object: &Value, key: &str) -> Result<f64> {
    object[key].as_f64().ok_or_else(|| format!("metadata: no number {key} in {object}").into())
}

/// A whole number in a JSON object: a size or a position.
pub fn count(object: &Value, key: &str) -> Result<u32> {
    let small = object[key].as_u64().and_then(|n| i32::try_from(n).ok());
    Ok(small.ok_or_else(|| format!("metadata: no count {key} in {object}"))? as u32)
}

/// A string in a JSON object.
pub fn text<'a>(object: &'a Value, key: &str) -> Result<&'a str> {
    object[key].as_str().ok_or_else(|| format!("metadata: no string {key} in {object}").into())
}

/// The metadata entries that are JSON objects, by name.
pub fn objects(file: &File) -> Vec<(String, Value)> {
    let mut all: Vec<_> = file
        .metadata
        .iter()
        .filter_map(|(key, text)| Some((key.clone(), serde_json::from_str(text).ok()?)))
        .filter(|(_, value): &(String, Value)| value.is_object())
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The number that follows `word` in running text, such as `theta 1e5` or `scale 1/8`.
pub fn number_after(text: &str, word: &str) -> Result<f64> {
    let missing = || format!("metadata: no number after {word:?} in {text:?}");
    let (_, rest) = text.split_once(&format!("{word} ")).ok_or_else(missing)?;
    let number = rest.split([' ', ',', ';']).next().unwrap_or_default().trim_end_matches('.');
    let (top, bottom) = number.split_once('/').unwrap_or((number, "1"));
    match (top.parse::<f64>(), bottom.parse::<f64>()) {
        (Ok(top), Ok(bottom)) => Ok(top / bottom),
        _ => Err(missing().into()),
    }
}

/// A rotation that reaches as far as its largest position.
pub fn rotation(config: RopeConfig, positions: Vec<Vec<u32>>) -> Rotation {
    let current_len = positions.iter().flatten().max().map_or(0, |&last| u64::from(last) + 1);
    Rotation { config, current_len, positions, xpos: None, keys: false }
}

/// The same configuration with the inverse frequencies and the scaling that a file states.
pub fn with_frequencies(config: &RopeConfig, inv_freq: &Tensor, scaling: f32) -> RopeConfig {
    let rule = RopeRule::Custom { inv_freq: inv_freq.f64(), attention_scaling: f64::from(scaling) };
    RopeConfig { rule, ..config.clone() }
}

/// The single element of a tensor.
pub fn scalar(file: &File, name: &str) -> Result<f32> {
    match file.tensor(name)?.data.as_slice() {
        [x] => Ok(*x),
        more => Err(format!("{}: {name} has {} elements, not one", file.name, more.len()).into()),
    }
}

/// A tensor that lies as `[B, S, H, D]`, in the order `[B, H, S, D]`, and its shape in this order.
pub fn bhsd(tensor: &Tensor, [b, s, h, d]: [u32; 4]) -> (Tensor, [u32; 4]) {
    let data = swap_axes(&tensor.data, [b, s, h, d]);
    (Tensor { shape: [b, h, s, d].map(|n| n as usize).to_vec(), data }, [b, h, s, d])
}

/// Some positions of a `[B, H, S, D]` tensor.
pub fn positions(
    x: &Tensor,
    [b, h, s, d]: [u32; 4],
    range: std::ops::Range<u32>,
) -> Result<(Tensor, [u32; 4])> {
    if range.end > s {
        return Err(format!("positions {range:?} of a tensor that has {s}").into());
    }
    let shape = [b, h, range.end - range.start, d];
    let part = (range.start * d) as usize..(range.end * d) as usize;
    let planes = x.data.chunks_exact(((s * d) as usize).max(1));
    let data = planes.flat_map(|plane| plane[part.clone()].to_vec()).collect();
    Ok((Tensor { shape: shape.map(|n| n as usize).to_vec(), data }, shape))
}

/// Exchanges the two middle axes of a dense tensor.
pub fn swap_axes<T: Copy>(x: &[T], shape: [u32; 4]) -> Vec<T> {
    let [batch, outer, inner, dim] = shape.map(|n| n as usize);
    let mut out = Vec::with_capacity(x.len());
    for b in 0..batch {
        for i in 0..inner {
            for o in 0..outer {
                out.extend_from_slice(&x[((b * outer + o) * inner + i) * dim..][..dim]);
            }
        }
    }
    out
}

/// The head map that the RoPE++ authors' `rope_config` asks for, over the heads of W_q.
pub fn head_map(rope_config: &Value, q_heads: u32) -> Result<HeadMap> {
    if rope_config["imag"] != Value::Bool(true) {
        return Ok(HeadMap::plain(q_heads)?);
    }
    Ok(match text(rope_config, "imag_mode")? {
        "imag1" | "imag2" => HeadMap::ropepp(q_heads)?,
        "imagh" => HeadMap::imagh(q_heads)?,
        "imago" => HeadMap::imago(q_heads)?,
        "imagx" => HeadMap::imagx(q_heads)?,
        other => return Err(format!("metadata: imag_mode {other:?} is not known").into()),
    })
}
