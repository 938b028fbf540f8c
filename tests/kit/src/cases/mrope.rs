//! M-RoPE: three position streams that share the pairs of a head.

use phasor::rotary::{PositionAxes, RopeConfig};

use super::{Case, Cases, Expected, FrequenciesCase, Order, Result, RopeCase, read::*};
use crate::golden::File;

pub fn recognises(file: &File) -> bool {
    !prefixes(file, ".positions_thw").is_empty()
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for case in prefixes(file, ".positions_thw") {
        let about = file.json(&case)?;
        let lengths = about["mrope_section"].as_array().map(Vec::as_slice).unwrap_or_default();
        let lengths: Vec<u32> =
            lengths.iter().filter_map(|n| u32::try_from(n.as_u64()?).ok()).collect();
        let sections: [u32; 3] = lengths.try_into().map_err(|got| format!("{case}: {got:?}"))?;
        let stream_of = counts(file, &format!("{case}.axis_of_freq"))?;
        // The metadata does not name the scheme. Runs of one stream each are sections.
        let axes = if stream_of.is_sorted() {
            PositionAxes::MropeSectioned(sections)
        } else {
            PositionAxes::MropeInterleaved(sections)
        };
        let head_dim = count(&about, "head_dim")?;
        let config =
            RopeConfig { axes, ..RopeConfig::new(head_dim, number(&about, "rope_theta")?) };
        let inv_freq = file.tensor(&format!("{case}.inv_freq"))?;
        cases.cases.push(Case::Frequencies(FrequenciesCase {
            name: case_name(file, &format!("{case}.inv_freq")),
            config: config.clone(),
            current_len: 1,
            inv_freq: inv_freq.data.clone(),
            bound: 1e-6,
            attention_scaling: None,
            axes: Some(stream_of.iter().map(|&axis| axis as u8).collect()),
        }));

        let positions = counts(file, &format!("{case}.positions_thw"))?;
        let streams: Vec<Vec<u32>> =
            positions.chunks((positions.len() / 3).max(1)).map(<[u32]>::to_vec).collect();
        let stated = with_frequencies(&config, inv_freq, 1.0);
        for vectors in ["q", "k"] {
            let (x, shape) = tensor4(file, &format!("{case}.{vectors}"))?;
            for (name, config, suffix) in
                [("", &config, "rot"), (" (inv_freq)", &stated, "rot_f64")]
            {
                let rotation = rotation(config.clone(), streams.clone());
                let tensor = format!("{case}.{vectors}_{suffix}");
                let whole = Expected::whole(&tensor, file.tensor(&tensor)?, shape, 1e-5)?;
                let exact = suffix == "rot_f64";
                cases.cases.push(Case::Rope(RopeCase {
                    name: case_name(file, &format!("{case}.{vectors}{name}")),
                    x: x.data.clone(),
                    shape,
                    order: Order::Bhsd,
                    expected: vec![if exact { whole } else { whole.with_f32_angles(&rotation) }],
                    rotation,
                    heads: None,
                }));
            }
        }
    }
    Ok(cases)
}
