//! Gradients: of attention with the rotation inside, of the rotation alone, and of linear
//! attention.

use phasor::{
    HeadMap, OutputHead, Phase,
    rotary::{Pairing, RopeConfig, RopeRule},
};
use serde_json::Value;

use super::{
    AttentionCase, BackwardCase, Case, Cases, Expected, Gradient, LinearBackwardCase, LinearCase,
    Result, RopeBackwardCase, Rotation, Variant, read::*,
};
use crate::golden::File;

/// Of a gradient's largest element.
const ATTENTION: f64 = 1e-5;
const LINEAR: f64 = 1e-6;

pub fn recognises(file: &File) -> bool {
    let kinds = [".dq", ".d_y", ".half.causal.dq"];
    kinds.iter().any(|suffix| !prefixes(file, suffix).is_empty())
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for case in prefixes(file, ".d_y") {
        cases.cases.push(Case::RopeBackward(rotation_alone(file, &case)?));
    }
    for case in prefixes(file, ".half.causal.dq") {
        cases.cases.extend(linear(file, &case)?);
    }
    for case in prefixes(file, ".d_out") {
        if has(file, &format!("{case}.dq")) {
            cases.cases.push(Case::Backward(described(file, &case)?));
        }
    }
    for case in prefixes(file, ".do") {
        cases.cases.push(Case::Backward(causal(file, &case)?));
    }
    Ok(cases)
}

/// A gradient: 1e-5 of its largest element, at least 1e-5, and more where the reference's own run
/// in f32 was off by more.
fn gradient(file: &File, name: &str, about: &Value) -> Result<Expected> {
    let tensor = file.tensor(name)?;
    let shape = match *tensor.shape.as_slice() {
        [b, h, s, d] => [b, h, s, d],
        [n] => [1, n, 1, 1],
        _ => return Err(format!("{name}: shape {:?}", tensor.shape).into()),
    };
    let key = name.rsplit('.').next().unwrap_or(name);
    let in_f32 = about["torch_f32_maxerr"][key].as_f64().unwrap_or(0.0);
    let bound = (ATTENTION * largest(&tensor.data).max(1.0)).max(2.2 * in_f32);
    Expected::whole(name, tensor, shape.map(|n| n as u32), bound)
}

fn largest(x: &[f32]) -> f64 {
    x.iter().fold(0f32, |most, x| most.max(x.abs())).into()
}

/// A rotation as the metadata of these files describe it.
fn rotation_of(about: &Value, positions: Vec<u32>) -> Result<Rotation> {
    let pairing = match text(about, "layout")? {
        "half" => Pairing::Half,
        "pairs" => Pairing::Interleaved,
        "pairs in, half out" => Pairing::InterleavedToHalf,
        other => return Err(format!("layout {other:?} is not known").into()),
    };
    let factor = number(about, "factor")?;
    let rule = match text(about, "table")? {
        "default" => RopeRule::Default,
        "pi" => RopeRule::Linear { factor },
        "yarn_authors" => RopeRule::YarnRotations {
            factor,
            original_max_position_embeddings: 4096,
            alpha: 1.0,
            beta: 32.0,
        },
        other => return Err(format!("table {other:?} is not known").into()),
    };
    let rotary_dim = count(about, "rotary_dim")?;
    let config = RopeConfig::new(count(about, "D")?, number(about, "theta")?);
    let config = RopeConfig { rotary_dim, pairing, rule, ..config };
    let scaling = config.frequencies(1)?.attention_scaling();
    let stated = number(about, "attention_scaling")?;
    if (scaling - stated).abs() > 1e-6 {
        return Err(format!("attention scaling {scaling}, not {stated}").into());
    }
    Ok(rotation(config, vec![positions]))
}

/// Attention with everything said in the metadata.
fn described(file: &File, case: &str) -> Result<BackwardCase> {
    let about = file.json(case)?;
    let name = |tensor: &str| format!("{case}.{tensor}");
    let data = |tensor: &str| -> Result<Option<Vec<f32>>> {
        let name = name(tensor);
        has(file, &name).then(|| Ok(file.tensor(&name)?.data.clone())).transpose()
    };
    let of = |tensor: &str| tensor4(file, &name(tensor));
    let ((q, q_shape), (k, k_shape), (v, v_shape)) = (of("q")?, of("k")?, of("v")?);
    let heads = about["heads"].as_array().ok_or("no heads")?.iter().map(|head| {
        let source = head[0].as_u64().ok_or("no source of a head")? as u32;
        let radians = head[1].as_f64().ok_or("no phase of a head")?;
        // π/2 as a double is not quite a right angle.
        let phase = match radians == std::f64::consts::FRAC_PI_2 {
            true => Phase::IMAGINARY,
            false => Phase::radians(radians),
        };
        Ok(OutputHead { source, phase })
    });
    let heads = HeadMap::new(q_shape[1], heads.collect::<Result<_>>()?)?;
    let positions = |tensor: &str| rotation_of(&about, counts(file, &name(tensor))?);
    let optional = |key: &str| about.get(key).filter(|value| !value.is_null());
    let lens = |tensor: &str| -> Result<Option<Vec<u32>>> {
        let name = name(tensor);
        has(file, &name).then(|| counts(file, &name)).transpose()
    };
    let mut bias = data("bias")?;
    let visible = name("visible");
    if has(file, &visible) {
        let (_, visible) = file.integers(&visible)?;
        let bias = bias.as_mut().ok_or("visible, but no bias")?;
        bias.iter_mut().zip(visible).for_each(|(x, &seen)| {
            if seen == 0 {
                *x = f32::NEG_INFINITY;
            }
        });
    }
    let causal = about["causal"].as_bool().ok_or("no causal")?;
    let q_offset = about["q_offset"].as_i64().ok_or("no q_offset")?;
    let softmax_scale = number(&about, "scale")?;
    let bound = |tensor: &str| {
        let in_f32 = about["torch_f32_maxerr"][tensor].as_f64().unwrap_or(0.0);
        2e-5f64.max(2.2 * in_f32)
    };
    let (out, out_shape) = of("out")?;
    let (lse, lse_shape) = tensor3(file, &name("lse"))?;
    let attention = AttentionCase {
        name: case_name(file, case),
        q: q.data.clone(),
        q_shape,
        k: k.data.clone(),
        k_shape,
        v: v.data.clone(),
        v_shape,
        rotations: Some([positions("q_positions")?, positions("k_positions")?]),
        heads,
        softmax_scale,
        causal,
        kv_lens: lens("kv_len")?,
        variant: Variant {
            window: optional("window").map(|_| count(&about, "window")).transpose()?,
            softcap: optional("softcap").map(|_| number(&about, "softcap")).transpose()?,
            sinks: data("sinks")?.unwrap_or_default(),
            alibi_slopes: data("alibi_slopes")?.unwrap_or_default(),
            bias,
            prefix_lens: lens("prefix_len")?,
            query_offset: causal.then_some(q_offset as i32),
        },
        out: vec![Expected::whole("out", out, out_shape, bound("out"))?],
        lse: vec![Expected::whole("lse", lse, lse_shape, bound("lse"))?],
    };
    let mut gradients = Vec::new();
    for (tensor, which) in [
        ("dq", Gradient::Q),
        ("dk", Gradient::K),
        ("dv", Gradient::V),
        ("dq_rot", Gradient::QRotated),
        ("dk_rot", Gradient::KRotated),
        ("d_sinks", Gradient::Sinks),
        ("d_bias", Gradient::Bias),
        ("d_alibi_slopes", Gradient::AlibiSlopes),
    ] {
        if has(file, &name(tensor)) {
            gradients.push((which, gradient(file, &name(tensor), &about)?));
        }
    }
    let d_out = of("d_out")?.0.data.clone();
    Ok(BackwardCase { attention, d_out, d_lse: data("d_lse")?, gradients })
}

/// Causal attention of vectors as they are; `do` is the upstream gradient.
fn causal(file: &File, case: &str) -> Result<BackwardCase> {
    let of = |tensor: &str| tensor4(file, &format!("{case}.{tensor}"));
    let ((q, q_shape), (k, k_shape), (v, v_shape)) = (of("q")?, of("k")?, of("v")?);
    let (out, out_shape) = of("out")?;
    let expect = |tensor: &str| gradient(file, &format!("{case}.{tensor}"), &Value::Null);
    Ok(BackwardCase {
        attention: AttentionCase {
            name: case_name(file, case),
            q: q.data.clone(),
            q_shape,
            k: k.data.clone(),
            k_shape,
            v: v.data.clone(),
            v_shape,
            rotations: None,
            heads: HeadMap::plain(q_shape[1])?,
            softmax_scale: f64::from(q_shape[3]).powf(-0.5),
            causal: true,
            kv_lens: None,
            variant: Variant::default(),
            out: vec![Expected::whole("out", out, out_shape, 2e-5)?],
            lse: Vec::new(),
        },
        d_out: of("do")?.0.data.clone(),
        d_lse: None,
        gradients: vec![
            (Gradient::Q, expect("dq")?),
            (Gradient::K, expect("dk")?),
            (Gradient::V, expect("dv")?),
        ],
    })
}

fn rotation_alone(file: &File, case: &str) -> Result<RopeBackwardCase> {
    let about = file.json(case)?;
    let (d_y, shape) = tensor4(file, &format!("{case}.d_y"))?;
    let dx = format!("{case}.dx");
    let (values, _) = tensor4(file, &dx)?;
    let phase = match number(&about, "phase")? {
        0.0 => Phase::REAL,
        std::f64::consts::FRAC_PI_2 => Phase::IMAGINARY,
        phase => Phase::radians(phase),
    };
    Ok(RopeBackwardCase {
        name: case_name(file, case),
        d_y: d_y.data.clone(),
        shape,
        rotation: rotation_of(&about, counts(file, &format!("{case}.positions"))?)?,
        phase,
        expected: Expected::whole(&dx, values, shape, LINEAR * largest(&values.data).max(1.0))?,
    })
}

fn linear(file: &File, case: &str) -> Result<Vec<Case>> {
    let about = file.json(case)?;
    if text(&about, "phi")? != "elu(x)+1" || number(&about, "eps")? != 0.0 {
        return Err(format!("{case}: another feature map or denominator: {about}").into());
    }
    let of = |tensor: &str| tensor4(file, &format!("{case}.{tensor}"));
    let ((q, q_shape), (k, k_shape), (v, v_shape)) = (of("q")?, of("k")?, of("v")?);
    let base = number(&about, "base")?;
    let mut cases = Vec::new();
    for (layout, pairing) in [("half", Pairing::Half), ("pairs", Pairing::Interleaved)] {
        for (mask, causal) in [("causal", true), ("full", false)] {
            let view = format!("{case}.{layout}.{mask}");
            let expect = |tensor: &str| -> Result<Expected> {
                let name = format!("{view}.{tensor}");
                let (values, shape) = tensor4(file, &name)?;
                let bound = LINEAR * largest(&values.data).max(1.0);
                Expected::whole(&name, values, shape, bound)
            };
            let config = RopeConfig { pairing, ..RopeConfig::new(q_shape[3], base) };
            cases.push(Case::LinearBackward(Box::new(LinearBackwardCase {
                linear: LinearCase {
                    name: case_name(file, &view),
                    q: q.data.clone(),
                    q_shape,
                    k: k.data.clone(),
                    k_shape,
                    v: v.data.clone(),
                    v_shape,
                    rotation: Some(rotation(config, vec![(0..q_shape[2]).collect()])),
                    causal,
                    out: expect("out")?,
                    state: None,
                },
                d_out: of("d_out")?.0.data.clone(),
                gradients: [expect("dq")?, expect("dk")?, expect("dv")?],
            })));
        }
    }
    Ok(cases)
}
