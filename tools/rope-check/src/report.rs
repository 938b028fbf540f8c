//! The two forms of a report.

use std::{fmt::Write, path::Path};

use phasor::{
    Result,
    rotary::{LayerRope, ModelRope, Pairing, PositionAxes, RopeConfig, RopeRule, Turn},
};
use serde_json::{Value, json};

/// Position that the probe is turned at.
const POSITION: u32 = 7;

/// A line for the eye on each kind of layer.
pub(crate) fn text(path: &Path, model: &ModelRope, length: u64) -> Result<String> {
    let mut out = format!("{}: {}\n", path.display(), model.model_type);
    for layer in &model.layers {
        let name = if layer.kind.is_empty() { "all rotated layers" } else { &layer.kind };
        rope(&mut out, name, &layer.rope, length)?;
        let scale = layer.softmax_scale.map_or("learned".to_owned(), |scale| scale.to_string());
        line(&mut out, "softmax scale", &scale);
        if let Some(scaling) = layer.query_scaling {
            line(&mut out, "query at position t", &scaling.to_string());
        }
    }
    if let Some(indexer) = &model.indexer {
        rope(&mut out, "indexer (chooses keys for the attention above)", indexer, length)?;
    }
    if let Some(unrotated) = &model.unrotated {
        let _ = writeln!(out, "  not rotated");
        if !unrotated.kinds.is_empty() {
            line(&mut out, "kinds of layers", &unrotated.kinds.join(", "));
        }
        if !unrotated.layers.is_empty() {
            let layers: Vec<_> = unrotated.layers.iter().map(u32::to_string).collect();
            line(&mut out, "layers", &layers.join(", "));
        }
        if let Some(scaling) = unrotated.query_scaling {
            line(&mut out, "query at position t", &scaling.to_string());
        }
    }
    Ok(out)
}

fn rope(out: &mut String, name: &str, rope: &RopeConfig, length: u64) -> Result<()> {
    let frequencies = rope.frequencies(length)?;
    let _ = writeln!(out, "  {name}");
    line(out, "rule", &rope.rule.to_string());
    line(out, "base", &rope.theta.to_string());
    line(out, "rotated channels", &format!("{} of {}", rope.rotary_dim, rope.head_dim));
    line(out, "pairs", pairing(rope.pairing));
    line(out, "direction", direction(rope.direction));
    if rope.axes != PositionAxes::Single {
        line(out, "position streams", &rope.axes.to_string());
    }
    line(out, "attention scaling", &frequencies.attention_scaling().to_string());
    if let [first, .., last] = frequencies.inv_freq() {
        line(out, "frequencies", &format!("{first:e} to {last:e} radians a position"));
    }
    Ok(())
}

fn line(out: &mut String, what: &str, value: &str) {
    let _ = writeln!(out, "    {what:<20} {value}");
}

/// The same as a JSON object on a line.
pub(crate) fn json(path: &Path, model: &ModelRope, length: u64) -> Result<String> {
    let mut layers = Vec::new();
    for LayerRope { kind, rope, softmax_scale, query_scaling } in &model.layers {
        let mut layer = object(kind, rope, *softmax_scale, length)?;
        if let Some(scaling) = query_scaling {
            layer["query_scaling"] = scaling.to_string().into();
        }
        layers.push(layer);
    }
    if let Some(indexer) = &model.indexer {
        layers.push(object("indexer", indexer, None, length)?);
    }
    let mut report = json!({
        "file": path.display().to_string(),
        "refused": null,
        "model_type": model.model_type,
        "layers": layers,
    });
    if let Some(unrotated) = &model.unrotated {
        report["unrotated"] = json!({
            "kinds": unrotated.kinds,
            "layers": unrotated.layers,
            "query_scaling": unrotated.query_scaling.map(|it| it.to_string()),
        });
    }
    Ok(format!("{report}\n"))
}

/// The line of a file that is refused.
pub(crate) fn refused_json(path: &Path, refused: &str) -> String {
    let file = path.display().to_string();
    format!("{}\n", json!({"file": file, "refused": refused, "layers": []}))
}

fn object(kind: &str, rope: &RopeConfig, softmax_scale: Option<f64>, length: u64) -> Result<Value> {
    let frequencies = rope.frequencies(length)?;
    Ok(json!({
        "layer": kind,
        "rule": rule(&rope.rule),
        "base": rope.theta,
        "head_dim": rope.head_dim,
        "rotary_dim": rope.rotary_dim,
        "pairing": pairing(rope.pairing),
        "direction": direction(rope.direction),
        "attention_scaling": frequencies.attention_scaling(),
        "softmax_scale": softmax_scale,
        "inv_freq": frequencies.inv_freq(),
        "rotated": rotated(rope)?,
    }))
}

/// The probe p_j = ((37 j + 11) mod 64)/32 − 1, turned at position 7.
fn rotated(rope: &RopeConfig) -> Result<Vec<f64>> {
    let frequencies = rope.frequencies(u64::from(POSITION) + 1)?;
    let probe = |j: u32| f64::from((37 * (j % 64) + 11) % 64) / 32.0 - 1.0;
    let mut out: Vec<f64> = (0..rope.head_dim).map(probe).collect();
    for j in 0..rope.rotary_dim / 2 {
        let (cos, sin) = frequencies.cos_sin(POSITION, j as usize);
        let (a, b) = rope.pairing.input(j, rope.rotary_dim);
        let (to_a, to_b) = rope.pairing.output(j, rope.rotary_dim);
        out[to_a as usize] = probe(a) * cos - probe(b) * sin;
        out[to_b as usize] = probe(b) * cos + probe(a) * sin;
    }
    Ok(out)
}

fn pairing(pairing: Pairing) -> &'static str {
    match pairing {
        Pairing::Half => "half-split",
        Pairing::Interleaved => "interleaved",
        Pairing::InterleavedToHalf => "interleaved, written half-split",
        Pairing::HalfBlocks(_) => "half-split within blocks",
    }
}

fn direction(direction: Turn) -> &'static str {
    match direction {
        Turn::Forward => "forward",
        Turn::Backward => "backward",
    }
}

/// The rule with the names of its parameters, without the long lists.
fn rule(rule: &RopeRule) -> String {
    match rule {
        RopeRule::LongRope { factor, original_max_position_embeddings: original, .. } => {
            format!("LongRope {{ factor: {factor}, original_max_position_embeddings: {original} }}")
        }
        other => format!("{other:?}"),
    }
}
