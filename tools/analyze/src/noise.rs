//! The mechanics of the paper's noise ablation: Gaussian noise on the rotated real or imaginary
//! query, and how much of the output it changes.

use rand::{SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, StandardNormal};

use crate::{
    Args, Result,
    device::Session,
    layer::Layer,
    pictures::{
        axis::{Axis, Scale},
        lines::{Corner, Line, LinesPicture, Panel},
        stroke::Stroke,
    },
    progress,
};

/// What noise of one standard deviation changes, as sums of squares over rows and channels.
struct Change {
    sigma: f64,
    /// Of every output head re0, im0, re1, im1, …
    heads: Vec<f64>,
}

pub struct Noise {
    changes: Vec<Change>,
    /// Squares of the outputs without noise, of every output head.
    outputs: Vec<f64>,
    /// Root mean square of the channels of the rotated queries.
    query_rms: f64,
    draws: u32,
}

/// Steps a decade, and the decades.
const STEPS: i32 = 4;
const DECADES: [i32; 2] = [-2, 1];

/// Adds noise to the rotated queries and attends with both components in one pass. A head reads its
/// own query alone, and Gaussian noise turned by −90° is Gaussian noise: so the real heads say what
/// noise on the real query does, and the imaginary ones what noise on the imaginary query does.
pub fn measure(session: &Session<'_>, layer: &Layer, args: &Args) -> Result<Noise> {
    let queries = session.queries();
    let heads = 2 * layer.q_heads() as usize;
    let clean = session.outputs(&queries);
    let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let per_head = |out: &[f32], minus: &[f32]| -> Vec<f64> {
        let size = out.len() / heads;
        let pairs = out.chunks(size).zip(minus.chunks(size));
        pairs
            .map(|(a, b)| squares(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b))))
            .collect()
    };
    let outputs = per_head(&clean, &vec![0.0; clean.len()]);
    let mean_square = squares(&mut queries.iter().copied().map(f64::from)) / queries.len() as f64;
    let exponents = DECADES[0] * STEPS..=DECADES[1] * STEPS;
    let bar = progress::bar("noise", exponents.clone().count() as u32 * args.draws)?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let mut changes = Vec::new();
    for exponent in exponents {
        let sigma = 10f64.powf(f64::from(exponent) / f64::from(STEPS));
        let mut sums = vec![0.0; heads];
        for _ in 0..args.draws {
            let noisy: Vec<f32> = queries
                .iter()
                .map(|&x| {
                    let e: f32 = StandardNormal.sample(&mut rng);
                    x + sigma as f32 * e
                })
                .collect();
            let change = per_head(&session.outputs(&noisy), &clean);
            sums.iter_mut().zip(change).for_each(|(sum, x)| *sum += x / f64::from(args.draws));
            bar.inc(1);
        }
        changes.push(Change { sigma, heads: sums });
    }
    bar.finish_and_clear();
    Ok(Noise { changes, outputs, query_rms: mean_square.sqrt(), draws: args.draws })
}

impl Noise {
    /// |change| of these output heads over |output| of those, for every σ.
    fn curve(
        &self,
        changed: impl Fn(usize) -> bool,
        of: impl Fn(usize) -> bool,
    ) -> Vec<(f64, f64)> {
        let sum = |x: &[f64], which: &dyn Fn(usize) -> bool| -> f64 {
            x.iter().enumerate().filter(|(head, _)| which(*head)).map(|(_, x)| x).sum()
        };
        let below = sum(&self.outputs, &of);
        let point = |c: &Change| (c.sigma, (sum(&c.heads, &changed) / below).sqrt());
        self.changes.iter().map(point).collect()
    }

    /// Change of the layer's output, in shares of it, with noise of about σ on one component.
    pub fn layer_change(&self, component: usize, sigma: f64) -> f64 {
        let curve = self.curve(|head| head % 2 == component, |_| true);
        let off = |p: &(f64, f64)| (p.0 / sigma).ln().abs();
        curve.into_iter().min_by(|a, b| off(a).total_cmp(&off(b))).map_or(f64::NAN, |p| p.1)
    }

    pub fn picture(&self, layer: &Layer, head: u32) -> LinesPicture {
        let both = |own: &dyn Fn(usize, usize) -> Vec<(f64, f64)>, what: &str| {
            [("real", Stroke::REAL), ("imaginary", Stroke::IMAGINARY)]
                .into_iter()
                .zip(0..)
                .map(|((name, stroke), component)| Line {
                    label: format!("noise on the {name} query{what}"),
                    stroke,
                    points: own(component, 2 * head as usize + component),
                })
                .collect::<Vec<_>>()
        };
        let lines = [
            both(&|_, out| self.curve(|h| h == out, |h| h == out), ""),
            both(&|component, _| self.curve(|h| h % 2 == component, |_| true), ""),
        ];
        let values = || lines.iter().flatten().flat_map(|line| line.points.iter().map(|p| p.1));
        let low = values().filter(|&y| y > 0.0).fold(1.0, f64::min).log10().floor();
        let high = values().fold(0.0, f64::max).log10().ceil().max(low + 1.0);
        let sigmas = DECADES.map(|e| 10f64.powi(e));
        let captions = [
            format!("head {head}: change of its own output"),
            format!("all {} heads: change of the layer's output", layer.q_heads()),
        ];
        let panels = captions.into_iter().zip(lines).map(|(caption, lines)| Panel {
            caption,
            x: Axis::new(
                "σ of the noise on every channel of the rotated query",
                Scale::Log,
                sigmas,
            ),
            y: Axis::new(
                "|out(σ) − out(0)| / |out(0)|",
                Scale::Log,
                [low, high].map(|e| 10f64.powf(e)),
            ),
            lines,
            marks: vec![(self.query_rms, "rms of q".to_owned())],
            legend: Some(Corner::UpperLeft),
        });
        LinesPicture {
            title: format!("Noise on the real or the imaginary query: {}", layer.title),
            subtitle: format!(
                "Gaussian, added after the rotation; root mean square over rows, channels and {} draws. \
                 The layer's output is both components of all heads, re0, im0, re1, …",
                self.draws
            ),
            panel: (780, 640),
            panels: panels.collect(),
        }
    }
}
