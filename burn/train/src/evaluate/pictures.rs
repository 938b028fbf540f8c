//! Pictures of what was measured, seeds as a band.

use std::collections::BTreeSet;
use std::path::Path;

use plots::{Line, Panel};

use super::command::{Evaluation, Measured};
use super::reach::Reach;
use super::report::{Spread, perplexities, rows};
use crate::Result;
use crate::config::Variant;

/// Draws `lengths`, `positions`, and `steps` where there are several checkpoints of a run, as PNG
/// and SVG.
///
/// # Errors
/// Where a file cannot be written.
pub fn draw(folder: &Path, all: &[Evaluation]) -> Result<()> {
    let steps: BTreeSet<_> = all.iter().map(|one| one.step).collect();
    let last = steps.last().copied().flatten();
    let newest: Vec<Evaluation> =
        all.iter().filter(|one| one.step == last || one.step.is_none()).cloned().collect();
    let reaches: BTreeSet<Reach> =
        newest.iter().flat_map(|one| &one.measured).map(|one| one.reach).collect();
    let panels: Vec<Panel> = reaches.into_iter().map(|reach| lengths(&newest, reach)).collect();
    plots::save(folder, "lengths", &panels)?;
    plots::save(folder, "positions", &[positions(&newest)])?;
    if steps.len() > 1 {
        plots::save(folder, "steps", &by_steps(all))?;
    }
    Ok(())
}

fn point(x: f64, spread: Spread) -> [f64; 4] {
    [x, spread.least, spread.mean, spread.largest]
}

fn plain(one: &Measured, reach: Reach, times: usize) -> bool {
    one.reach == reach && one.times == times && one.ablation.is_none()
}

fn lengths(all: &[Evaluation], reach: Reach) -> Panel {
    let times: BTreeSet<usize> =
        all.iter().flat_map(|one| &one.measured).map(|one| one.times).collect();
    let lines = rows(all).into_iter().map(|((ctx, mode, _), of)| {
        // At the training length every way is the same.
        let of_length = |times: usize| {
            let reach = if times == 1 { Reach::Full } else { reach };
            perplexities(&of, |one| plain(one, reach, times))
        };
        let points =
            times.iter().filter_map(|&times| Some(point((times * ctx) as f64, of_length(times)?)));
        Line { label: mode.name().to_owned(), colour: mode as usize, points: points.collect() }
    });
    Panel {
        caption: format!("{}: past the length of training", reach.name()),
        x_title: "characters of a window".to_owned(),
        y_title: "perplexity".to_owned(),
        doubling: true,
        lines: lines.filter(|line| line.points.len() > 1).collect(),
    }
}

fn positions(all: &[Evaluation]) -> Panel {
    let lines = rows(all).into_iter().map(|((_, mode, _), of)| {
        let longest = of.iter().filter_map(|one| {
            let full = one.measured.iter().filter(|m| m.reach == Reach::Full);
            full.filter(|m| m.ablation.is_none()).max_by_key(|m| m.times)
        });
        let curves: Vec<&[f64]> = longest.map(|one| one.loss.as_slice()).collect();
        let length = curves.iter().map(|curve| curve.len()).min().unwrap_or_default();
        let together = length.div_ceil(64).max(1);
        let points = (0..length / together).filter_map(|n| {
            let part = n * together..(n + 1) * together;
            let means = curves
                .iter()
                .map(|curve| curve[part.clone()].iter().sum::<f64>() / together as f64);
            let x = (n as f64 + 0.5) * together as f64;
            Some(point(x, Spread::of(&means.collect::<Vec<_>>())?))
        });
        Line { label: mode.name().to_owned(), colour: mode as usize, points: points.collect() }
    });
    Panel {
        caption: "Loss by position in the longest windows".to_owned(),
        x_title: "position".to_owned(),
        y_title: "loss a character".to_owned(),
        doubling: false,
        lines: lines.collect(),
    }
}

/// Perplexity at the training length and at the largest, against the steps of training.
fn by_steps(all: &[Evaluation]) -> Vec<Panel> {
    let most = all.iter().flat_map(|one| &one.measured).map(|one| one.times).max().unwrap_or(1);
    let panel = |times: usize| {
        let rows = rows(all);
        let modes: BTreeSet<Variant> = rows.keys().map(|(_, mode, _)| *mode).collect();
        let lines = modes.into_iter().map(|mode| {
            let points = rows.iter().filter(|((_, one, _), _)| *one == mode);
            let points = points.filter_map(|((_, _, step), of)| {
                let spread = perplexities(of, |one| plain(one, Reach::Full, times))?;
                Some(point((*step)? as f64, spread))
            });
            Line { label: mode.name().to_owned(), colour: mode as usize, points: points.collect() }
        });
        Panel {
            caption: format!("At {times}× the training length, while training"),
            x_title: "steps".to_owned(),
            y_title: "perplexity".to_owned(),
            doubling: false,
            lines: lines.collect(),
        }
    };
    [1, most].map(panel).into()
}
