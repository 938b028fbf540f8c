//! Interleaved pairs: GPT-J (partial, `[B, S, H, D]`) and RoFormer (which rotates values too).

use phasor::rotary::{Pairing, RopeConfig};

use super::{Case, Cases, Expected, Order, Result, RopeCase, read::*};
use crate::golden::File;

pub fn recognises(file: &File) -> bool {
    !prefixes(file, ".q_rot_bthd").is_empty() || !prefixes(file, ".v_rot").is_empty()
}

pub fn parse(file: &File) -> Result<Cases> {
    let about = file.metadata.get("about").ok_or("metadata: no entry about")?;
    let theta = number_after(about, "base")?;
    let config = |head_dim, rotary_dim| RopeConfig {
        rotary_dim,
        pairing: Pairing::Interleaved,
        ..RopeConfig::new(head_dim, theta)
    };
    let mut cases = Cases::default();
    for case in prefixes(file, ".q_rot_bthd") {
        // Named `model.dD_rR`, with the positions of all of a model's cases in `model.positions`.
        let (model, size) = case.split_once('.').ok_or_else(|| format!("{case}: no model"))?;
        let rotary_dim = size.split('_').find_map(|part| part.strip_prefix('r')?.parse().ok());
        let rotary_dim = rotary_dim.ok_or_else(|| format!("{case}: no rotary dimension"))?;
        let (x, shape) = tensor4(file, &format!("{case}.q_bthd"))?;
        let config = config(shape[3], rotary_dim);
        let rotation = rotation(config, vec![counts(file, &format!("{model}.positions"))?]);
        let mut expected = Vec::new();
        for name in [format!("{case}.q_rot_bthd"), format!("{case}.q_rot_bthd_f64")] {
            let (values, shape) = tensor4(file, &name)?;
            let (values, shape) = bhsd(values, shape);
            let exact = name.ends_with("_f64");
            let whole = Expected::whole(&name, &values, shape, 1e-5)?;
            expected.push(if exact { whole } else { whole.with_f32_angles(&rotation) });
        }
        let [b, s, h, d] = shape;
        cases.cases.push(Case::Rope(RopeCase {
            name: case_name(file, &case),
            x: x.data.clone(),
            shape: [b, h, s, d],
            order: Order::Bshd,
            rotation,
            heads: None,
            expected,
        }));
    }
    for rotated in prefixes(file, "_rot") {
        let name = format!("{rotated}_rot");
        let (x, shape) = tensor4(file, &rotated)?;
        let rotation = rotation(config(shape[3], shape[3]), vec![(0..shape[2]).collect()]);
        let expected = Expected::whole(&name, file.tensor(&name)?, shape, 1e-5)?;
        cases.cases.push(Case::Rope(RopeCase {
            name: case_name(file, &rotated),
            x: x.data.clone(),
            shape,
            order: Order::Bhsd,
            expected: vec![expected.with_f32_angles(&rotation)],
            rotation,
            heads: None,
        }));
    }
    Ok(cases)
}
