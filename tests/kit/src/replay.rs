//! Runs a case and holds the result to everything that its file says about it.

use phasor::{oracle, rotary::curves};

use crate::{
    cases::{Case, CurveKind, CurvesCase, Expected, FrequenciesCase, Result, RopeCase},
    runner::Runner,
    tolerance::Stats,
};

/// The comparison that came closest to its bound, of a case that passed.
///
/// # Errors
/// When the case cannot be computed, or a result is off: the text says which, where and by how
/// much.
pub fn run(case: &Case, runner: &dyn Runner) -> Result<Stats> {
    match case {
        Case::Frequencies(case) => frequencies(case),
        Case::Curves(case) => {
            let curve = curve(case)?;
            case.expected.check(&curve, case.expected.shape)
        }
        Case::Linear(case) => {
            let got = runner.linear(case)?;
            let mut most = case.out.check(&got.out, case.out.shape)?;
            for (expected, got) in case.state.iter().flatten().zip(&got.state) {
                most = worst(most, expected.check(got, expected.shape)?);
            }
            Ok(most)
        }
        Case::Rope(case) => {
            let (result, shape) = rotated_heads(case, runner.rope(case)?)?;
            check_all(&case.expected, &result, shape)
        }
        Case::Scores(case) => {
            let (re, im) = runner.scores(case)?;
            let real = case.real.check(&re, case.real.shape)?;
            Ok(worst(real, case.imaginary.check(&im, case.imaginary.shape)?))
        }
        Case::Attention(case) => {
            let got = runner.attention(case)?;
            let out = check_all(&case.out, &got.out, case.out_shape())?;
            let mut most = worst(out, check_all(&case.lse, &got.lse, case.lse_shape())?);
            if let Some(got) = runner.served(case)? {
                most = worst(most, check_all(&case.out, &got.out, case.out_shape())?);
                most = worst(most, check_all(&case.lse, &got.lse, case.lse_shape())?);
            }
            Ok(most)
        }
        Case::Cache(case) => {
            let [k, v] = runner.cache(case)?;
            let k = case.expected[0].check(&k, case.k_shape)?;
            Ok(worst(k, case.expected[1].check(&v, case.v_shape)?))
        }
        Case::Merge(case) => {
            let got = runner.merge(case)?;
            let [b, h, s, _] = case.shape;
            let out = case.out.check(&got.out, case.shape)?;
            Ok(worst(out, case.lse.check(&got.lse, [b, h, s, 1])?))
        }
    }
}

/// The rotated vectors as the reference stores them: turned for its output heads, if it has any.
/// For real and imaginary heads that moves and negates numbers and changes none.
fn rotated_heads(case: &RopeCase, rotated: Vec<f64>) -> Result<(Vec<f64>, [u32; 4])> {
    let Some(map) = &case.heads else { return Ok((rotated, case.shape)) };
    let config = &case.rotation.config;
    let (dim, pairing, heads) = (config.rotary_dim, config.pairing, map.heads());
    let turned = oracle::output_queries(&rotated, case.shape, dim, pairing, heads)?;
    let [b, _, s, d] = case.shape;
    Ok((turned, [b, heads.len() as u32, s, d]))
}

fn check_all(expected: &[Expected], result: &[f64], shape: [u32; 4]) -> Result<Stats> {
    let mut all = expected.iter().map(|expected| expected.check(result, shape));
    let first = all.next().ok_or("nothing to compare with")??;
    all.try_fold(first, |most, stats| Ok(worst(most, stats?)))
}

fn worst(a: Stats, b: Stats) -> Stats {
    if b.error * a.bound > a.error * b.bound { b } else { a }
}

fn curve(case: &CurvesCase) -> Result<Vec<f64>> {
    let frequencies = case.config.frequencies(1)?;
    let base = case.config.theta;
    let point = |&distance: &u32| {
        let sum = || curves::characteristic(&frequencies, distance);
        let integral = || curves::characteristic_integral(base, f64::from(distance));
        Ok(match case.kind {
            CurveKind::Real => sum().real,
            CurveKind::Imaginary => sum().imaginary,
            CurveKind::RealIntegral => integral()?.real,
            CurveKind::ImaginaryIntegral => integral()?.imaginary,
            CurveKind::DecayBound => curves::decay_bound(&frequencies, distance),
        })
    };
    case.distances.iter().map(point).collect()
}

/// Frequencies are relative: the slow ones of long contexts are as small as 1e-6.
fn frequencies(case: &FrequenciesCase) -> Result<Stats> {
    let got = case.config.frequencies(case.current_len)?;
    if got.inv_freq().len() != case.inv_freq.len() {
        let (got, needed) = (got.inv_freq().len(), case.inv_freq.len());
        return Err(format!("{got} frequencies, not {needed}").into());
    }
    if let Some(axes) = case.axes.as_deref().filter(|&axes| got.axes() != Some(axes)) {
        return Err(format!("position streams {:?}, not {axes:?}", got.axes()).into());
    }
    let scaling = case.attention_scaling.map(|m| (got.attention_scaling(), m));
    let pairs = got.inv_freq().iter().copied().zip(case.inv_freq.iter().copied());
    let mut most = Stats { error: 0.0, bound: case.bound, ulps: 0, at: [0; 4] };
    for (pair, (got, truth)) in pairs.chain(scaling).enumerate() {
        let error = match f64::from(truth) {
            0.0 => got.abs(),
            truth => ((got - truth) / truth).abs(),
        };
        if error.is_nan() || error > case.bound {
            let bound = case.bound;
            return Err(format!(
                "[{pair}]: {got:e}, not {truth:e}: off by {error:e} > {bound:e}, relative"
            )
            .into());
        }
        if error > most.error {
            most = Stats { error, at: [0, 0, 0, pair], ..most };
        }
    }
    Ok(most)
}
