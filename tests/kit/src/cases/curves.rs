//! Characteristic curves: sums, closed forms, the decay bound, and the scores of vectors of ones.

use phasor::rotary::RopeConfig;

use super::{Case, Cases, CurveKind, CurvesCase, Expected, Result, ScoresCase, read::*};
use crate::{golden::File, tolerance::Bound};

pub fn recognises(file: &File) -> bool {
    !prefixes(file, ".c_re_sum").is_empty()
}

/// The curves of a case, by the name of their tensors.
const CURVES: [(&str, CurveKind); 5] = [
    ("c_re_sum", CurveKind::Real),
    ("c_im_sum", CurveKind::Imaginary),
    ("c_re_int", CurveKind::RealIntegral),
    ("c_im_int", CurveKind::ImaginaryIntegral),
    ("roformer_bound", CurveKind::DecayBound),
];

pub fn parse(file: &File) -> Result<Cases> {
    let distances = counts(file, "dt")?;
    let mut cases = Cases::default();
    for case in prefixes(file, ".c_re_sum") {
        let config = config_of(&case)?;
        let shape = [1, 1, distances.len() as u32, 1];
        for (curve, kind) in CURVES {
            let name = format!("{case}.{curve}");
            cases.cases.push(Case::Curves(CurvesCase {
                name: case_name(file, &name),
                config: config.clone(),
                distances: distances.clone(),
                kind,
                expected: Expected::whole(&name, file.tensor(&name)?, shape, 1e-6)?,
            }));
        }
        cases.cases.push(ones(file, &case, &config, &distances)?);
    }
    Ok(cases)
}

/// `d128_base10000`: the file says so nowhere else.
fn config_of(case: &str) -> Result<RopeConfig> {
    let parts = case.strip_prefix('d').and_then(|rest| rest.split_once("_base"));
    let numbers = parts.and_then(|(dim, base)| Some((dim.parse().ok()?, base.parse().ok()?)));
    let (dim, base) = numbers.ok_or_else(|| format!("{case}: no dimension and base"))?;
    Ok(RopeConfig::new(dim, base))
}

/// The key at 0, a query at every distance, all their channels 1.
fn ones(file: &File, case: &str, config: &RopeConfig, distances: &[u32]) -> Result<Case> {
    let dim = config.head_dim;
    let seq = distances.len() as u32;
    let thetas: f64 = config.frequencies(1)?.inv_freq().iter().sum();
    let expect = |name: &str| -> Result<Expected> {
        let name = format!("{case}.{name}");
        let whole = Expected::whole(&name, file.tensor(&name)?, [1, 1, seq, 1], 2e-5)?;
        // The reference has its frequencies in f32. Each turns a pair of size 2 by an ulp of its
        // angle.
        let turned = |&d: &u32| 2.0 * f64::from(d) * thetas * f64::from(f32::EPSILON);
        let bounds = match whole.bound {
            Bound::Uniform(floor) => distances.iter().map(|d| floor + turned(d)).collect(),
            Bound::PerPosition(bounds) => bounds,
        };
        Ok(Expected { bound: Bound::PerPosition(bounds), ..whole })
    };
    Ok(Case::Scores(ScoresCase {
        name: case_name(file, &format!("{case}.authors_ones")),
        q: vec![1.0; (seq * dim) as usize],
        q_shape: [1, 1, seq, dim],
        k: vec![1.0; dim as usize],
        k_shape: [1, 1, 1, dim],
        q_rotation: rotation(config.clone(), vec![distances.to_vec()]),
        k_rotation: rotation(config.clone(), vec![vec![0]]),
        real: expect("authors_ones_real")?,
        imaginary: expect("authors_ones_imag")?,
    }))
}
