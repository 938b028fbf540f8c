//! Every RoPE type of a library: inverse frequencies, scalings, and vectors in both pairings.

use phasor::rotary::{Pairing, RopeConfig, RopeRule};
use serde_json::Value;

use super::{Case, Cases, Expected, FrequenciesCase, Order, Result, RopeCase, read::*};
use crate::golden::File;

/// Libraries form the frequencies in f32; the longest chain of them (llama3's blend) is off by
/// 2.2e-6, relative.
const FREQUENCY: f64 = 4e-6;

pub fn recognises(file: &File) -> bool {
    objects(file).iter().any(|(_, about)| about["rope_parameters"].is_object())
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for (case, about) in objects(file) {
        let config = rope_of(&about)?;
        frequencies(file, &case, &about, &config, &mut cases)?;
        for (layout, pairing) in [("half", Pairing::Half), ("pairs", Pairing::Interleaved)] {
            for vectors in ["q", "k"] {
                if has(file, &format!("{case}.{layout}.{vectors}_f64")) {
                    let config = RopeConfig { pairing, ..config.clone() };
                    vectors_of(file, &case, layout, vectors, config, &mut cases)?;
                }
            }
        }
    }
    Ok(cases)
}

/// The frequencies after the call that the file describes, and at other current lengths.
fn frequencies(
    file: &File,
    case: &str,
    about: &Value,
    config: &RopeConfig,
    cases: &mut Cases,
) -> Result<()> {
    let mut at = vec![(case.to_owned(), u64::from(count(about, "seq_len_seen")?))];
    for name in prefixes(file, ".inv_freq") {
        if let Some(len) = name.strip_prefix(&format!("{case}.at_len.")) {
            at.push((name.clone(), len.parse().map_err(|e| format!("{name}: {e}"))?));
        }
    }
    for (name, current_len) in at {
        cases.cases.push(Case::Frequencies(FrequenciesCase {
            name: case_name(file, &format!("{name}.inv_freq")),
            config: config.clone(),
            current_len,
            inv_freq: file.tensor(&format!("{name}.inv_freq"))?.data.clone(),
            bound: FREQUENCY,
            attention_scaling: Some(scalar(file, &format!("{name}.attention_scaling"))?),
            axes: None,
        }));
    }
    Ok(())
}

/// Rotated vectors twice over. By the configuration's own frequencies, which no f32 library can
/// follow far out; and by the file's rounded ones, where nothing but the rotation can be off.
fn vectors_of(
    file: &File,
    case: &str,
    layout: &str,
    vectors: &str,
    config: RopeConfig,
    cases: &mut Cases,
) -> Result<()> {
    let (x, shape) = tensor4(file, vectors)?;
    let positions = vec![counts(file, "positions")?];
    let name = case_name(file, &format!("{case}.{layout}.{vectors}"));
    let exact = |suffix: &str| {
        let tensor = format!("{case}.{layout}.{vectors}_{suffix}");
        Expected::whole(&tensor, file.tensor(&tensor)?, shape, 1e-5)
    };
    let stated = with_frequencies(
        &config,
        file.tensor(&format!("{case}.inv_freq"))?,
        scalar(file, &format!("{case}.attention_scaling"))?,
    );
    for (name, config) in [(name.clone(), config), (format!("{name} (inv_freq)"), stated)] {
        let own = !matches!(config.rule, RopeRule::Custom { .. });
        let rotation = rotation(config, positions.clone());
        let library = exact("hf32")?.with_f32_angles(&rotation);
        let exact = exact("f64")?;
        let exact = if own { exact.with_f32_angles(&rotation) } else { exact };
        cases.cases.push(Case::Rope(RopeCase {
            name,
            x: x.data.clone(),
            shape,
            order: Order::Bhsd,
            rotation,
            heads: None,
            expected: vec![library, exact],
        }));
    }
    Ok(())
}
