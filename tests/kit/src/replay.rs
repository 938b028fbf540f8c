//! Runs a case and holds the result to everything that its file says about it.

use std::error::Error;

use phasor::{
    OutputHead, Phase,
    oracle::{self, Attended},
    rotary::{Pairing, curves},
};

use crate::{
    cases::{
        AttentionCase, BackwardCase, Case, CurveKind, CurvesCase, Expected, FrequenciesCase,
        Gradient, LayerBackwardCase, ModelCase, Result, RopeBackwardCase, RopeCase, swap_axes,
    },
    runner::{Attend, Gradients, Runner, Ways},
    tolerance::Stats,
};

/// Of a case that passed, the comparison that came closest to its bound, for every way that the
/// runner has to compute it.
///
/// # Errors
/// When the case cannot be computed, or a result is off: the text says which, where and by how
/// much.
pub fn run(case: &Case, runner: &dyn Runner) -> Result<Ways<Stats>> {
    let stats = match case {
        Case::Frequencies(case) => frequencies(case)?,
        Case::Curves(case) => {
            let curve = curve(case)?;
            case.expected.check(&curve, case.expected.shape)?
        }
        Case::Linear(case) => {
            let got = runner.linear(case)?;
            let mut most = case.out.check(&got.out, case.out.shape)?;
            for (expected, got) in case.state.iter().flatten().zip(&got.state) {
                most = worst(most, expected.check(got, expected.shape)?);
            }
            most
        }
        Case::Rope(case) => {
            let (result, shape) = rotated_heads(case, runner.rope(case)?)?;
            check_all(&case.expected, &result, shape)?
        }
        Case::Scores(case) => {
            let (re, im) = runner.scores(case)?;
            let real = case.real.check(&re, case.real.shape)?;
            worst(real, case.imaginary.check(&im, case.imaginary.shape)?)
        }
        Case::Attention(case) => {
            let rounded = runner.rounded(case)?;
            let loose = rounded.map(|of| loosened(case, &of)).transpose()?;
            return each(runner.name(), runner.attention(case)?, |way, got| {
                let case = loose.as_ref().filter(|_| way == runner.name()).unwrap_or(case);
                let out = check_all(&case.out, &got.out, case.out_shape())?;
                Ok(worst(out, check_all(&case.lse, &got.lse, case.lse_shape())?))
            });
        }
        Case::Cache(case) => {
            return each(runner.name(), runner.cache(case)?, |_, [k, v]| {
                let k = case.expected[0].check(&k, case.k_shape)?;
                Ok(worst(k, case.expected[1].check(&v, case.v_shape)?))
            });
        }
        Case::Merge(case) => {
            let got = runner.merge(case)?;
            let [b, h, s, _] = case.shape;
            let out = case.out.check(&got.out, case.shape)?;
            worst(out, case.lse.check(&got.lse, [b, h, s, 1])?)
        }
        Case::Backward(case) => {
            return each(runner.name(), runner.backward(case)?, |_, got| gradients(case, &got));
        }
        Case::LayerBackward(case) => {
            let ways = runner.backward(&case.attention)?;
            return each(runner.name(), ways, |_, got| layer_gradients(case, &got));
        }
        Case::RopeBackward(case) => {
            case.expected.check(&runner.rope_backward(&turned_back(case)?)?, case.shape)?
        }
        Case::LinearBackward(case) => {
            let got = runner.linear_backward(case)?;
            let all = case.gradients.iter().zip(&got);
            let mut all = all.map(|(expected, got)| expected.check(got, expected.shape));
            let first = all.next().ok_or("no gradients")??;
            all.try_fold(first, |most, stats| Ok::<_, Box<dyn Error>>(worst(most, stats?)))?
        }
        Case::Train(case) => case.run(runner)?,
        Case::Model(case) => {
            let sequences = case.prompt.len() as u32;
            let tokens = (case.prompt[0].len() + case.greedy[0].len()) as u32;
            let attention = case.model.attention(sequences, tokens);
            let ways = runner.model(&attention)?;
            return each(runner.name(), ways, |_, mut attend| model(case, attend.as_mut()));
        }
    };
    Ok(vec![(runner.name(), stats)])
}

/// Judges what every way gave; an error says which it was, beside the runner's own.
fn each<T>(
    runner: &str,
    ways: Ways<T>,
    judge: impl Fn(&str, T) -> Result<Stats>,
) -> Result<Ways<Stats>> {
    ways.into_iter()
        .map(|(way, got)| match judge(way, got) {
            Ok(stats) => Ok((way, stats)),
            Err(error) if way == runner => Err(error),
            Err(error) => Err(format!("{way}: {error}").into()),
        })
        .collect()
}

/// The case with bounds that a kernel of less than f32's precision may reach.
fn loosened(case: &AttentionCase, [naive, truth]: &[Attended<f64>; 2]) -> Result<AttentionCase> {
    let (out_shape, lse_shape) = (case.out_shape(), case.lse_shape());
    let mut case = case.clone();
    for (expected, of, shape) in [
        (&mut case.out, [&naive.out[..], &truth.out[..]], out_shape),
        (&mut case.lse, [&naive.lse[..], &truth.lse[..]], lse_shape),
    ] {
        let all = expected.drain(..).map(|one| one.with_error_of(of, shape));
        *expected = all.collect::<Result<_>>()?;
    }
    Ok(case)
}

/// The results of the forward pass, and every gradient that the way offers.
fn gradients(case: &BackwardCase, got: &Gradients) -> Result<Stats> {
    let forward = &case.attention;
    let mut most = check_all(&forward.out, &got.attention.out, forward.out_shape())?;
    for lse in &forward.lse {
        most = worst(most, lse.check(&got.attention.lse, forward.lse_shape())?);
    }
    for (which, expected) in &case.gradients {
        let got = match which {
            Gradient::Q => &got.dq,
            Gradient::K => &got.dk,
            Gradient::V => &got.dv,
            Gradient::QRotated => &got.dq_rotated,
            Gradient::KRotated => &got.dk_rotated,
            Gradient::Sinks => &got.d_sinks,
            Gradient::Bias => &got.d_bias,
            // Kernels have none: slopes are constants in every model that has them.
            Gradient::AlibiSlopes if got.d_alibi_slopes.is_empty() => continue,
            Gradient::AlibiSlopes => &got.d_alibi_slopes,
        };
        most = worst(most, expected.check(got, expected.shape)?);
    }
    Ok(most)
}

/// The projections around attention, on the host.
fn layer_gradients(case: &LayerBackwardCase, got: &Gradients) -> Result<Stats> {
    let attention = &case.attention.attention;
    let [batch, heads_out, seq, dim] = attention.out_shape();
    let [q, k, v, o] = &case.weights;
    let merged = swap_axes(&got.attention.out, [batch, heads_out, seq, dim]);
    let mut most = case.output.check(&o.times(&merged), case.output.shape)?;
    let mut d_x = vec![0.0; case.x.len()];
    let shapes = [attention.q_shape, attention.k_shape, attention.v_shape];
    for (n, (w, d)) in [q, k, v].into_iter().zip([&got.dq, &got.dk, &got.dv]).enumerate() {
        let d = swap_axes(d, shapes[n]);
        d_x.iter_mut().zip(w.back(&d)).for_each(|(sum, d)| *sum += d);
        let expected = &case.d_weights[n];
        let d_w = w.weights_gradient(&d, &case.x);
        most = worst(most, expected.check(&d_w, expected.shape)?);
    }
    let d_o = o.weights_gradient(&case.d_output, &merged);
    most = worst(most, case.d_weights[3].check(&d_o, case.d_weights[3].shape)?);
    Ok(worst(most, case.d_x.check(&d_x, case.d_x.shape)?))
}

/// The case with its phase undone: what was turned by −φ has its gradient turned by φ.
fn turned_back(case: &RopeBackwardCase) -> Result<RopeBackwardCase> {
    let config = &case.rotation.config;
    // After the rotation.
    let pairing = match config.pairing {
        Pairing::InterleavedToHalf => Pairing::Half,
        other => other,
    };
    let back = Phase::radians(-case.phase.sin().atan2(case.phase.cos()));
    let phase = if case.phase == Phase::REAL { Phase::REAL } else { back };
    let heads: Vec<_> = (0..case.shape[1]).map(|source| OutputHead { source, phase }).collect();
    let d_y = oracle::output_queries(&case.d_y, case.shape, config.rotary_dim, pairing, &heads)?;
    Ok(RopeBackwardCase { d_y, ..case.clone() })
}

/// The prompt in two pieces, then one token after the other, each the likeliest.
fn model(case: &ModelCase, attend: &mut dyn Attend) -> Result<Stats> {
    let vocabulary = case.logits.shape[3] as usize;
    let length = case.prompt[0].len();
    let cut = length.div_ceil(3);
    let mut past = 0;
    // Logits of each sequence, [S, vocabulary].
    let mut forward = |tokens: Vec<&[u32]>| -> Result<Vec<Vec<f64>>> {
        let logits = case.model.forward(&tokens, past, attend)?;
        past += tokens[0].len() as u32;
        Ok(logits.chunks_exact(logits.len() / tokens.len()).map(<[f64]>::to_vec).collect())
    };
    let mut prompt = forward(case.prompt.iter().map(|ids| &ids[..cut]).collect())?;
    if cut < length {
        let rest = forward(case.prompt.iter().map(|ids| &ids[cut..]).collect())?;
        prompt.iter_mut().zip(rest).for_each(|(logits, rest)| logits.extend(rest));
    }
    let most = case.logits.check(&prompt.concat(), case.logits.shape)?;

    let mut last = prompt;
    let mut steps = vec![Vec::new(); case.prompt.len()];
    for step in 0..case.greedy[0].len() {
        let likeliest: Vec<u32> = last
            .iter()
            .map(|logits| {
                let row = &logits[logits.len() - vocabulary..];
                let best = (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b]));
                best.unwrap_or(0) as u32
            })
            .collect();
        let stated: Vec<u32> = case.greedy.iter().map(|tokens| tokens[step]).collect();
        if likeliest != stated {
            return Err(
                format!("token {step} after the prompt: {likeliest:?}, not {stated:?}").into()
            );
        }
        last = forward(likeliest.iter().map(std::slice::from_ref).collect())?;
        steps.iter_mut().zip(&last).for_each(|(all, logits)| all.extend(logits));
    }
    Ok(worst(most, case.step_logits.check(&steps.concat(), case.step_logits.shape)?))
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
