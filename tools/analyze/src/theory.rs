//! Characteristic curves of a rotation: no data, only frequencies.

use std::f64::consts::FRAC_PI_2;

use phasor::rotary::{
    Frequencies,
    curves::{Characteristic, characteristic, characteristic_integral, decay_bound},
};

use crate::{
    Args, Result,
    pictures::{
        INK,
        axis::{Axis, Scale},
        lines::{Corner, Line, LinesPicture, Panel},
        stroke::Stroke,
    },
    rules::Rule,
};

/// Distances that the curves are drawn over: 0 and a grid that grows by a twenty-fifth.
fn distances(reach: u32) -> Vec<u32> {
    let mut all = vec![0];
    let mut at = 1.0f64;
    while at <= f64::from(reach) {
        let next = at.round() as u32;
        if all.last() != Some(&next) {
            all.push(next);
        }
        at *= 1.04;
    }
    all
}

fn distance_axis(reach: u32) -> Axis {
    Axis::new("distance Δ, tokens", Scale::LogFromZero, [0.0, reach.into()])
}

/// Ends of a linear axis with a little room, and at the top with more where a legend goes.
fn ends(lines: &[Line], legend: Option<Corner>) -> [f64; 2] {
    let values = lines.iter().flat_map(|line| line.points.iter().map(|p| p.1));
    let (low, high) =
        values.fold((0.0, 0.0), |(low, high), y| (f64::min(low, y), f64::max(high, y)));
    let span = f64::max(high - low, 1e-9);
    let above = if legend == Some(Corner::UpperRight) { 0.24 } else { 0.05 };
    [if low < 0.0 { low - 0.05 * span } else { low }, high + above * span]
}

fn panel(caption: &str, y: &str, reach: u32, lines: Vec<Line>, legend: Option<Corner>) -> Panel {
    Panel {
        caption: caption.to_owned(),
        x: distance_axis(reach),
        y: Axis::new(y, Scale::Linear, ends(&lines, legend)),
        lines,
        marks: Vec::new(),
        legend,
    }
}

/// The finite sums of one rotation, their limit, and RoFormer's bound.
pub fn characteristic_picture(args: &Args, head_dim: u32, theta: f64) -> Result<LinesPicture> {
    let frequencies = args.rope.frequencies(args, head_dim, theta)?;
    let at = distances(args.reach);
    let line = |label: String, stroke: Stroke, f: &dyn Fn(u32) -> Result<f64>| -> Result<Line> {
        let point = |&d: &u32| Ok((f64::from(d), f(d)?));
        Ok(Line { label, stroke, points: at.iter().map(point).collect::<Result<_>>()? })
    };
    let integral = |d: u32| characteristic_integral(theta, d.into());
    let thin = |stroke: Stroke| Stroke { width: 2, dash: None, ..stroke.without_marker() };
    let limit = Stroke { width: 3, colour: INK, ..Stroke::REFERENCE };
    let sum_label = || format!("sum over {} pairs", head_dim / 2);
    let limit_label = || "plain RoPE, D → ∞".to_owned();
    let real = vec![
        line(sum_label(), thin(Stroke::REAL), &|d| Ok(characteristic(&frequencies, d).real))?,
        line(limit_label(), limit, &|d| Ok(integral(d)?.real))?,
    ];
    let imaginary = vec![
        line(sum_label(), thin(Stroke::IMAGINARY), &|d| {
            Ok(characteristic(&frequencies, d).imaginary)
        })?,
        line(limit_label(), limit, &|d| Ok(integral(d)?.imaginary))?,
    ];
    let bound = vec![line("RoFormer's bound".into(), thin(Stroke::MANY[0]), &|d| {
        Ok(decay_bound(&frequencies, d))
    })?];
    Ok(LinesPicture {
        title: format!(
            "Characteristic curves: {}, base {theta}, D = {head_dim}",
            args.rope.name(args)
        ),
        subtitle:
            "Mean score of queries and keys whose channels are independent with mean μ, over D μ²; \
                   the bound is of |score|, over D/2 · max |h(i+1) − h(i)|"
                .into(),
        panel: (620, 560),
        panels: vec![
            panel("real", "c_Re(Δ)", args.reach, real, Some(Corner::UpperRight)),
            panel("imaginary", "c_Im(Δ)", args.reach, imaginary, Some(Corner::UpperRight)),
            panel("long-term decay", "B(Δ)", args.reach, bound, Some(Corner::UpperRight)),
        ],
    })
}

/// What the ways to stretch a context do to the curves.
pub fn rules_picture(args: &Args, head_dim: u32, theta: f64) -> Result<LinesPicture> {
    let (mut real, mut imaginary) = (Vec::new(), Vec::new());
    for (rule, stroke) in Rule::compared(args.rope).into_iter().zip(Stroke::MANY) {
        let points = means(&rule.frequencies(args, head_dim, theta)?, args.reach);
        let line = |component: fn(&Characteristic) -> f64| Line {
            label: rule.name(args),
            stroke,
            points: points.iter().map(|(d, c)| (*d, component(c))).collect(),
        };
        real.push(line(|c| c.real));
        imaginary.push(line(|c| c.imaginary));
    }
    let stretched = args.original as f64 * args.factor;
    let marks = [(args.original as f64, "L".to_owned()), (stretched, "sL".to_owned())];
    let marks: Vec<_> = marks.into_iter().filter(|m| m.0 < f64::from(args.reach)).collect();
    let with_marks = |panel: Panel| Panel { marks: marks.clone(), ..panel };
    Ok(LinesPicture {
        title: format!(
            "Stretching the context from L = {} to sL = {stretched}: base {theta}, D = {head_dim}",
            args.original
        ),
        subtitle: "Means over distances from Δ/2 to 2 Δ, near ones counting most; YaRN and LongRoPE with their temperature m²"
            .into(),
        panel: (780, 640),
        panels: vec![
            with_marks(panel("real", "c_Re(Δ)", args.reach, real, Some(Corner::LowerLeft))),
            with_marks(panel("imaginary", "c_Im(Δ)", args.reach, imaginary, None)),
        ],
    })
}

/// Means over the distances around each, from half to twice as far, near ones counting most: single
/// distances oscillate.
fn means(frequencies: &Frequencies, reach: u32) -> Vec<(f64, Characteristic)> {
    // Far ranges hold thousands of distances; so many say what the mean is.
    const MOST: u32 = 1024;
    let mut points = vec![(0.0, characteristic(frequencies, 0))];
    let mut at = 1.0;
    while at <= f64::from(reach) {
        let (first, last) = ((at / 2.0).ceil() as u32, (at * 2.0).floor() as u32);
        let step = (last - first).div_ceil(MOST).max(1) as usize;
        let mut mean = Characteristic { real: 0.0, imaginary: 0.0 };
        let mut weights = 0.0;
        for distance in (first..=last).step_by(step) {
            let octaves = (f64::from(distance) / at).log2();
            let weight = (FRAC_PI_2 * octaves).cos().powi(2);
            let c = characteristic(frequencies, distance);
            mean.real += weight * c.real;
            mean.imaginary += weight * c.imaginary;
            weights += weight;
        }
        mean.real /= weights;
        mean.imaginary /= weights;
        points.push((at, mean));
        at *= if at < 4.0 { 1.0 + 1.0 / at } else { 1.25 };
    }
    points
}
