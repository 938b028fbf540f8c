//! Images (three conventions of two axes), xPos, and static NTK frequencies.

use phasor::rotary::{Axial2d, Pairing, PositionAxes, RopeConfig, RopeRule, Xpos};

use super::{Case, Cases, Expected, FrequenciesCase, Order, Result, RopeCase, Rotation, read::*};
use crate::golden::File;

/// θ of every case: these files do not state it, the libraries' default is meant.
const THETA: f64 = 10_000.0;

pub fn recognises(file: &File) -> bool {
    has(file, "positions_hw") || !prefixes(file, ".k_rot").iter().all(|c| !c.starts_with("xpos"))
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for case in prefixes(file, ".q_rot") {
        for vectors in ["q", "k"] {
            let rotated = format!("{case}.{vectors}_rot");
            if !has(file, &rotated) {
                continue;
            }
            // Cases of images share their vectors, the others have their own.
            let own = format!("{case}.{vectors}");
            let (x, shape) = tensor4(file, if has(file, &own) { &own } else { vectors })?;
            let rotation = Rotation { keys: vectors == "k", ..rotation_of(file, &case, shape)? };
            let whole = Expected::whole(&rotated, file.tensor(&rotated)?, shape, 1e-5)?;
            cases.cases.push(Case::Rope(RopeCase {
                name: case_name(file, &own),
                x: x.data.clone(),
                shape,
                order: Order::Bhsd,
                expected: vec![whole.with_f32_angles(&rotation)],
                rotation,
                heads: None,
            }));
        }
    }
    for case in prefixes(file, ".inv_freq") {
        let factor = case.strip_prefix("ntk_static.s").and_then(|s| s.parse().ok());
        let factor = factor.ok_or_else(|| format!("{case}: frequencies of an unknown rule"))?;
        let inv_freq = file.tensor(&format!("{case}.inv_freq"))?.data.clone();
        let config = RopeConfig::new(2 * inv_freq.len() as u32, THETA);
        cases.cases.push(Case::Frequencies(FrequenciesCase {
            name: case_name(file, &case),
            config: RopeConfig { rule: RopeRule::NtkAware { factor }, ..config },
            current_len: 1,
            inv_freq,
            bound: 1e-6,
            attention_scaling: None,
            axes: None,
        }));
    }
    Ok(cases)
}

fn rotation_of(file: &File, case: &str, [_, _, seq, head_dim]: [u32; 4]) -> Result<Rotation> {
    let config = RopeConfig::new(head_dim, THETA);
    if case.starts_with("xpos") {
        let about = file.json(case)?;
        if text(&about, "zeta")? != "(2i+0.4D)/(1.4D)" {
            return Err(format!("{case}: another length scale than xPos with gamma 0.4").into());
        }
        let config = RopeConfig { pairing: Pairing::Interleaved, ..config };
        let xpos = Xpos {
            scale_base: number(&about, "scale_base")?,
            centre: count(&about, "centre")?,
            gamma: 0.4,
        };
        return Ok(Rotation { xpos: Some(xpos), ..rotation(config, vec![(0..seq).collect()]) });
    }
    let (axes, pairing) = match case {
        "pixtral_axial" => (Axial2d::Alternating, Pairing::Half),
        "gemma4_axial" => (Axial2d::Blocks, Pairing::HalfBlocks(2)),
        "ret_axial_pairs" => (Axial2d::Blocks, Pairing::Interleaved),
        other => return Err(format!("{other}: an unknown convention").into()),
    };
    let places = counts(file, "positions_hw")?;
    let axis = |n: usize| places.iter().skip(n).step_by(2).copied().collect();
    let config = RopeConfig { axes: PositionAxes::Axial2d(axes), pairing, ..config };
    Ok(rotation(config, vec![axis(0), axis(1)]))
}
