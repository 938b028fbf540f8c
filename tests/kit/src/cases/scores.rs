//! Raw real and imaginary scores, at the start of a sequence and far into it.

use phasor::rotary::RopeConfig;

use super::{Case, Cases, Expected, Result, ScoresCase, read::*};
use crate::golden::File;

pub fn recognises(file: &File) -> bool {
    !prefixes(file, ".score_real").is_empty()
}

pub fn parse(file: &File) -> Result<Cases> {
    let mut cases = Cases::default();
    for case in prefixes(file, ".score_real") {
        let about = file.json(&case)?;
        // A shifted case repeats the vectors of the one that it is named after.
        let own = if has(file, &format!("{case}.q")) {
            case.as_str()
        } else {
            case.strip_suffix("_off").ok_or_else(|| format!("{case}: no queries"))?
        };
        let (q, q_shape) = tensor4(file, &format!("{own}.q"))?;
        let (k, k_shape) = tensor4(file, &format!("{own}.k"))?;
        let head_dim = count(&about, "head_dim")?;
        let config = RopeConfig::new(head_dim, number(&about, "rope_theta")?);
        let offset = count(&about, "position_offset")?;
        let at = |seq: u32| rotation(config.clone(), vec![(offset..offset + seq).collect()]);
        let expect = |name: &str| {
            let tensor = format!("{case}.{name}");
            let (values, shape) = tensor4(file, &tensor)?;
            Expected::whole(&tensor, values, shape, 2e-5)
        };
        cases.cases.push(Case::Scores(ScoresCase {
            name: case_name(file, &case),
            q: q.data.clone(),
            q_shape,
            k: k.data.clone(),
            k_shape,
            q_rotation: at(q_shape[2]),
            k_rotation: at(k_shape[2]),
            real: expect("score_real")?,
            imaginary: expect("score_imag")?,
        }));
    }
    Ok(cases)
}
