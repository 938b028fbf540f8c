//! Mean attention weight against distance, for the real and the imaginary component.

use super::{
    axis::{Axis, Scale},
    lines::{Corner, Line, LinesPicture, Panel},
    stroke::Stroke,
};
use crate::statistics::Point;

/// The curves of one panel.
pub struct Curves {
    pub caption: String,
    pub real: Vec<Point>,
    pub imaginary: Vec<Point>,
}

/// Panels side by side over common axes, both logarithmic.
pub fn distance_picture(title: String, subtitle: String, panels: Vec<Curves>) -> LinesPicture {
    let points = || panels.iter().flat_map(|p| p.real.iter().chain(&p.imaginary));
    let least = points().map(|p| p.weight.min(p.uniform)).filter(|&w| w > 0.0).fold(1.0, f64::min);
    let most = points().map(|p| p.weight.max(p.uniform)).fold(0.0, f64::max);
    let highest = most.log10().ceil().clamp(-8.0, 0.0);
    let lowest = least.log10().floor().clamp(-9.0, highest - 1.0);
    let farthest = points().map(|p| p.distance).fold(1.0, f64::max);
    let panel = |curves: Curves| {
        let line = |label: &str, stroke, curve: &[Point], weight: fn(&Point) -> f64| Line {
            label: label.to_owned(),
            stroke,
            points: curve.iter().map(|p| (p.distance, weight(p))).collect(),
        };
        Panel {
            x: Axis::new("distance Δ = t − s, tokens", Scale::LogFromZero, [0.0, farthest]),
            y: Axis::new(
                "mean attention weight",
                Scale::Log,
                [lowest, highest].map(|exponent| 10f64.powf(exponent)),
            ),
            lines: vec![
                line("no preference: mean of 1/(t + 1)", Stroke::REFERENCE, &curves.real, |p| {
                    p.uniform
                }),
                line("real", Stroke::REAL, &curves.real, |p| p.weight),
                line("imaginary", Stroke::IMAGINARY, &curves.imaginary, |p| p.weight),
            ],
            caption: curves.caption,
            marks: Vec::new(),
            legend: Some(Corner::LowerLeft),
        }
    };
    LinesPicture {
        title,
        subtitle,
        panel: (780, 640),
        panels: panels.into_iter().map(panel).collect(),
    }
}
