//! Axes: where a value stands, and which values are written beside them.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

use super::power_of_ten;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    Linear,
    Log,
    /// Logarithmic from 1 on; 0 has a place of its own in front of it.
    LogFromZero,
}

#[derive(Debug, Clone)]
pub struct Axis {
    pub title: String,
    pub scale: Scale,
    /// The values at its ends.
    pub ends: [f64; 2],
}

/// Where 0 stands on a logarithmic axis.
const ZERO: f64 = 0.5;

impl Axis {
    pub fn new(title: &str, scale: Scale, ends: [f64; 2]) -> Self {
        Self { title: title.to_owned(), scale, ends }
    }

    /// Place of a value; those past an end stand there.
    pub fn place(&self, x: f64) -> f64 {
        let [low, high] = self.places();
        self.raw(x).clamp(low, high)
    }

    fn raw(&self, x: f64) -> f64 {
        match self.scale {
            Scale::Linear => x,
            Scale::Log => x.log10(),
            Scale::LogFromZero => x.max(ZERO).log10(),
        }
    }

    /// Places of the two ends.
    pub fn places(&self) -> [f64; 2] {
        let [low, high] = self.ends.map(|x| self.raw(x));
        match self.scale {
            Scale::LogFromZero => [low - 0.07, high + 0.06],
            _ => [low, high],
        }
    }

    /// Whether a logarithmic axis is marked by whole powers of ten alone.
    fn is_long(&self) -> bool {
        let [low, high] = self.places();
        high - low > 3.2
    }

    /// Values that are marked.
    fn values(&self) -> Vec<f64> {
        let [low, high] = self.ends;
        if self.scale == Scale::Linear {
            let step = nice((high - low) / 6.0);
            let range = (low / step).ceil() as i64..=(high / step + 1e-9).floor() as i64;
            return range.map(|n| n as f64 * step).collect();
        }
        let steps: &[f64] = if self.is_long() { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let mut values = Vec::new();
        if self.scale == Scale::LogFromZero {
            values.push(0.0);
        }
        let first = low.max(1e-12).log10().floor() as i32;
        let first = if self.scale == Scale::LogFromZero { 0 } else { first };
        for decade in first..=high.log10().ceil() as i32 {
            values.extend(steps.iter().map(|step| step * 10f64.powi(decade)));
        }
        let within = |x: &f64| *x >= low * (1.0 - 1e-9) && *x <= high * (1.0 + 1e-9);
        values.retain(within);
        values
    }

    /// Places that are marked.
    fn ticks(&self) -> Vec<f64> {
        self.values().into_iter().map(|x| self.raw(x)).collect()
    }

    /// The axis as plotters takes it.
    pub fn coordinate(&self) -> Coordinate {
        let [low, high] = self.places();
        Coordinate::new(low..high, self.ticks())
    }

    /// What is written at a marked place.
    pub fn label(&self, place: f64) -> String {
        let distance = |x: &f64| (self.raw(*x) - place).abs();
        let values = self.values();
        let nearest = values.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        let Some(value) = nearest else { return String::new() };
        match self.scale {
            Scale::Linear => {
                let step = nice((self.ends[1] - self.ends[0]) / 6.0);
                let digits = (-step.log10().floor()).max(0.0) as usize;
                let text = format!("{value:.digits$}");
                if value < 0.0 { text.replacen('-', "−", 1) } else { text }
            }
            _ if value == 0.0 => "0".into(),
            _ if self.is_long() => power_of_ten(value.log10().round() as i32),
            _ => {
                let digits = (-value.log10().floor()).max(0.0) as usize;
                format!("{value:.digits$}")
            }
        }
    }
}

/// An axis of places as plotters takes it: its range, and what is marked.
pub struct Coordinate {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Coordinate {
    pub fn new(range: Range<f64>, ticks: Vec<f64>) -> Self {
        Self { range, ticks }
    }
}

impl Ranged for Coordinate {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// 1, 2 or 5 times a power of ten, about `x`.
fn nice(x: f64) -> f64 {
    let decade = 10f64.powf(x.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    decade * steps.into_iter().find(|step| step * decade >= x * 0.999).unwrap_or(10.0)
}
