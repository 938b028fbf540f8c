//! RoFormer linear attention: full and causal, in both pairings, without a rotation, the state that
//! it leaves, and an image model's attention over two axes.

use phasor::rotary::{Axial2d, Pairing, PositionAxes, RopeConfig};
use serde_json::Value;

use super::{Case, Cases, Expected, FrequenciesCase, LinearCase, Result, Rotation, read::*};
use crate::golden::{File, Tensor};

pub fn recognises(file: &File) -> bool {
    !prefixes(file, ".final_S").is_empty() || !prefixes(file, ".angles").is_empty()
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for case in prefixes(file, ".final_S") {
        text_cases(file, &case, &mut cases.cases)?;
    }
    for case in prefixes(file, ".angles") {
        image_cases(file, &case, &mut cases.cases)?;
    }
    Ok(cases)
}

/// Which tensors a sequence is compared with: their name, the pairing, and whether it is causal.
const VIEWS: [(&str, Option<Pairing>, bool); 5] = [
    ("half.out", Some(Pairing::Half), false),
    ("half.out_causal", Some(Pairing::Half), true),
    ("pairs.out", Some(Pairing::Interleaved), false),
    ("pairs.out_causal", Some(Pairing::Interleaved), true),
    ("norope.out_causal", None, true),
];

fn text_cases(file: &File, case: &str, cases: &mut Vec<Case>) -> Result<()> {
    let about = file.json(case)?;
    // What the metadata may say otherwise and nothing here computes.
    if text(&about, "phi")? != "elu(x)+1" || number(&about, "eps")? != 0.0 {
        return Err(format!("{case}: another feature map or denominator: {about}").into());
    }
    let tensor = |name: &str| tensor4(file, &format!("{case}.{name}"));
    let ((q, q_shape), (k, k_shape), (v, v_shape)) = (tensor("q")?, tensor("k")?, tensor("v")?);
    let base = number(&about, "base")?;
    for (view, pairing, causal) in VIEWS {
        let name = format!("{case}.{view}");
        if !has(file, &name) {
            continue;
        }
        let (values, shape) = tensor4(file, &name)?;
        let rotation = pairing.map(|pairing| {
            let config = RopeConfig { pairing, ..RopeConfig::new(q_shape[3], base) };
            rotation(config, vec![(0..q_shape[2]).collect()])
        });
        // The state is that of interleaved pairs: z does not depend on them, and S is stated once.
        let state = match pairing {
            Some(Pairing::Interleaved) => Some(final_state(file, case)?),
            _ => None,
        };
        cases.push(Case::Linear(LinearCase {
            name: case_name(file, &name),
            q: q.data.clone(),
            q_shape,
            k: k.data.clone(),
            k_shape,
            v: v.data.clone(),
            v_shape,
            rotation,
            causal,
            out: Expected::whole(&name, values, shape, 2e-5)?,
            state,
        }));
    }
    Ok(())
}

fn final_state(file: &File, case: &str) -> Result<[Expected; 2]> {
    let (s, z) = (format!("{case}.final_S"), format!("{case}.final_z"));
    let (values, shape) = tensor4(file, &s)?;
    let s = Expected::whole(&s, values, shape, 2e-5)?;
    let (values, [b, h, f, _]) = tensor3(file, &z)?;
    Ok([s, Expected::whole(&z, values, [b, h, 1, f], 2e-5)?])
}

/// One head over the patches of a square image, `[B, S, D]`: values are the layer's input.
fn image_cases(file: &File, case: &str, cases: &mut Vec<Case>) -> Result<()> {
    let about = file.json(case)?;
    let tensor = |name: &str| -> Result<(&Tensor, [u32; 4])> {
        let (tensor, [b, s, d, _]) = tensor3(file, &format!("{case}.{name}"))?;
        Ok((tensor, [b, 1, s, d]))
    };
    let ((q, q_shape), (k, k_shape), (v, v_shape)) = (tensor("q")?, tensor("k")?, tensor("x")?);
    let rotation = image_rotation(&about, q_shape)?;
    let angles = file.tensor(&format!("{case}.angles"))?;
    cases.push(Case::Frequencies(frequencies_of(file, case, angles, &rotation)?));
    let name = format!("{case}.out");
    let (values, shape) = tensor("out")?;
    cases.push(Case::Linear(LinearCase {
        name: case_name(file, &name),
        q: q.data.clone(),
        q_shape,
        k: k.data.clone(),
        k_shape,
        v: v.data.clone(),
        v_shape,
        rotation: Some(rotation),
        causal: false,
        out: Expected::whole(&name, values, shape, 2e-5)?,
        state: None,
    }));
    Ok(())
}

fn image_rotation(about: &Value, [_, _, seq, dim]: [u32; 4]) -> Result<Rotation> {
    let layout = text(about, "layout")?;
    if !layout.starts_with("pairs; first C/2 channels rotate by row, last C/2 by column") {
        return Err(format!("a layout that is not read here: {layout:?}").into());
    }
    let base = layout
        .split_once("theta_k = ")
        .and_then(|(_, rest)| rest.strip_suffix("^(-k/(C/4))")?.parse().ok())
        .ok_or_else(|| format!("no frequencies that are read here: {layout:?}"))?;
    let side = count(about, "side")?;
    if side * side != seq {
        return Err(format!("{seq} patches, not {side} x {side}").into());
    }
    let config = RopeConfig {
        pairing: Pairing::Interleaved,
        axes: PositionAxes::Axial2d(Axial2d::Blocks),
        ..RopeConfig::new(dim, base)
    };
    let places = 0..side * side;
    let (rows, columns) = (places.clone().map(|s| s / side), places.map(|s| s % side));
    Ok(rotation(config, vec![rows.collect(), columns.collect()]))
}

/// The angles that the file states, `[S, D/2]`: those of the patch at row 1, column 1 are the
/// frequencies themselves.
fn frequencies_of(
    file: &File,
    case: &str,
    angles: &Tensor,
    rotation: &Rotation,
) -> Result<FrequenciesCase> {
    let ones = |s: &usize| rotation.positions.iter().all(|stream| stream[*s] == 1);
    let place =
        (0..rotation.positions[0].len()).find(ones).ok_or("no patch at row and column 1")?;
    let pairs = rotation.config.rotary_dim as usize / 2;
    if angles.data.len() != rotation.positions[0].len() * pairs {
        return Err(format!("{case}.angles: shape {:?}", angles.shape).into());
    }
    Ok(FrequenciesCase {
        name: case_name(file, &format!("{case}.angles")),
        config: rotation.config.clone(),
        current_len: rotation.current_len,
        inv_freq: angles.data[place * pairs..][..pairs].to_vec(),
        bound: 1e-6,
        attention_scaling: None,
        axes: None,
    })
}
