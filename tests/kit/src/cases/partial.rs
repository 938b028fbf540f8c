//! Partial rotary heads, and pairs that are read interleaved and written half-split.

use phasor::rotary::{Pairing, RopeConfig};

use super::{Case, Cases, Expected, Order, Result, RopeCase, read::*};
use crate::golden::File;

/// θ of DeepSeek-V3, the one model here whose case states neither θ nor frequencies.
const DEEPSEEK_THETA: f64 = 10_000.0;

pub fn recognises(file: &File) -> bool {
    objects(file).iter().any(|(_, about)| about["rotary_dims"].is_number())
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    let described = objects(file);
    for case in prefixes(file, ".q_rot") {
        let head_dim = tensor4(file, "q")?.1[3];
        let config = match described.iter().find(|(name, _)| *name == case) {
            Some((_, about)) => {
                let config = RopeConfig {
                    rotary_dim: count(about, "rotary_dims")?,
                    pairing: match text(about, "layout")? {
                        "half" => Pairing::Half,
                        "pairs" => Pairing::Interleaved,
                        other => return Err(format!("{case}: layout {other:?}").into()),
                    },
                    // θ stands in no metadata; the frequencies do.
                    ..RopeConfig::new(head_dim, 1.0)
                };
                with_frequencies(&config, file.tensor(&format!("{case}.inv_freq"))?, 1.0)
            }
            None if case.contains("interleave_in_half_out") => RopeConfig {
                pairing: Pairing::InterleavedToHalf,
                ..RopeConfig::new(head_dim, DEEPSEEK_THETA)
            },
            None => return Err(format!("{case}: metadata describes no such case").into()),
        };
        for vectors in ["q", "k"] {
            let (x, shape) = tensor4(file, vectors)?;
            let rotation = rotation(config.clone(), vec![counts(file, "positions")?]);
            let rotated = format!("{case}.{vectors}_rot");
            let exact = format!("{rotated}_f64");
            let mut expected = vec![
                Expected::whole(&rotated, file.tensor(&rotated)?, shape, 1e-5)?
                    .with_f32_angles(&rotation),
            ];
            if has(file, &exact) {
                expected.push(Expected::whole(&exact, file.tensor(&exact)?, shape, 1e-5)?);
            }
            cases.cases.push(Case::Rope(RopeCase {
                name: case_name(file, &format!("{case}.{vectors}")),
                x: x.data.clone(),
                shape,
                order: Order::Bhsd,
                rotation,
                heads: None,
                expected,
            }));
        }
    }
    Ok(cases)
}
