//! Tables of what was measured: one row a mode, over its seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::ablation::{Change, Component};
use super::command::{Evaluation, Measured};
use super::reach::Reach;
use crate::config::Variant;

/// Least, mean and largest of the seeds, and how many they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub mean: f64,
    pub largest: f64,
    pub count: usize,
}

impl Spread {
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        (count > 0).then(|| Self {
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            mean: values.iter().sum::<f64>() / count as f64,
            largest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count,
        })
    }

    /// `6.29 (6.25–6.34)`, or the number alone where there is one.
    fn text(self) -> String {
        let Self { least, mean, largest, count } = self;
        match count {
            1 => format!("{mean:.2}"),
            _ => format!("{mean:.2} ({least:.2}–{largest:.2})"),
        }
    }
}

/// What tells the models of a table's row: the seeds are its spread.
pub type Row = (usize, Variant, Option<usize>);

/// Evaluations by training length, mode and steps.
pub fn rows(all: &[Evaluation]) -> BTreeMap<Row, Vec<&Evaluation>> {
    let mut rows: BTreeMap<Row, Vec<&Evaluation>> = BTreeMap::new();
    for one in all {
        rows.entry((one.ctx, one.mode, one.step)).or_default().push(one);
    }
    rows
}

/// Of all seeds, what a filter finds.
pub fn perplexities(of: &[&Evaluation], found: impl Fn(&Measured) -> bool) -> Option<Spread> {
    let measured = of.iter().flat_map(|one| &one.measured);
    let values: Vec<f64> = measured.filter(|one| found(one)).map(|one| one.perplexity).collect();
    Spread::of(&values)
}

/// All tables, in Markdown.
pub fn tables(all: &[Evaluation]) -> String {
    let mut text = String::new();
    let rows = rows(all);
    let reaches: BTreeSet<Reach> = measured(all).map(|one| one.reach).collect();
    for reach in reaches {
        lengths(&mut text, all, &rows, reach);
    }
    positions(&mut text, &rows);
    ablations(&mut text, &rows);
    text
}

fn measured(all: &[Evaluation]) -> impl Iterator<Item = &Measured> {
    all.iter().flat_map(|one| &one.measured)
}

fn named((ctx, mode, step): Row, of: &[&Evaluation]) -> String {
    let step = step.map_or_else(String::new, |step| format!(", {step} steps"));
    format!("| {} ({} seeds, length {ctx}{step}) |", mode.name(), of.len())
}

fn lengths(
    text: &mut String,
    all: &[Evaluation],
    rows: &BTreeMap<Row, Vec<&Evaluation>>,
    reach: Reach,
) {
    let times: BTreeSet<usize> =
        measured(all).filter(|one| one.reach == reach).map(|one| one.times).collect();
    let _ =
        writeln!(text, "\nPerplexity, {}, at so many times the training length\n", reach.name());
    let head: String = times.iter().map(|times| format!(" {times} |")).collect();
    let _ = writeln!(text, "| | parameters | cache, bytes a token |{head}");
    let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(times.len()));
    for (row, of) in rows {
        let cells: Vec<String> = times
            .iter()
            .map(|&times| {
                let found = |one: &Measured| {
                    one.reach == reach && one.times == times && one.ablation.is_none()
                };
                perplexities(of, found).map_or_else(String::new, Spread::text)
            })
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let (parameters, cache) = (of[0].parameters, of[0].cache_bytes_per_token);
            let name = named(*row, of);
            let _ = writeln!(text, "{name} {parameters} | {cache} | {} |", cells.join(" | "));
        }
    }
}

/// Where in the longest windows the loss is.
fn positions(text: &mut String, rows: &BTreeMap<Row, Vec<&Evaluation>>) {
    const PARTS: [[f64; 2]; 6] =
        [[0.0, 0.5], [0.5, 1.0], [1.0, 1.5], [1.5, 2.0], [2.0, 4.0], [4.0, 8.0]];
    let _ = writeln!(text, "\nLoss at positions from and to so many training lengths, full\n");
    let head: String = PARTS.iter().map(|[from, to]| format!(" {from}–{to} |")).collect();
    let _ = writeln!(text, "| |{head}\n|---|{}", "---|".repeat(PARTS.len()));
    for (row, of) in rows {
        let cells: Vec<String> = PARTS
            .iter()
            .map(|part| {
                let values: Vec<f64> = of.iter().filter_map(|one| in_part(one, *part)).collect();
                Spread::of(&values).map_or_else(String::new, Spread::text)
            })
            .collect();
        let _ = writeln!(text, "{} {} |", named(*row, of), cells.join(" | "));
    }
}

fn in_part(one: &Evaluation, part: [f64; 2]) -> Option<f64> {
    let full = one.measured.iter().filter(|m| m.reach == Reach::Full && m.ablation.is_none());
    let longest = full.max_by_key(|m| m.times)?;
    let [from, to] = part.map(|at| (at * one.ctx as f64) as usize);
    let losses = longest.loss.get(from..to)?;
    Some(losses.iter().sum::<f64>() / losses.len() as f64)
}

fn ablations(text: &mut String, rows: &BTreeMap<Row, Vec<&Evaluation>>) {
    for (row, of) in rows {
        let all = || of.iter().flat_map(|one| &one.measured);
        let times: BTreeSet<usize> =
            all().filter(|one| one.ablation.is_some()).map(|one| one.times).collect();
        if times.is_empty() {
            continue;
        }
        let mut changes: Vec<Change> = Vec::new();
        for (_, change) in all().filter_map(|one| one.ablation) {
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
        let name = named(*row, of);
        let _ = writeln!(
            text,
            "\nPerplexity with a component changed, {}\n",
            name.trim_matches([' ', '|'])
        );
        let head: String =
            times.iter().map(|t| format!(" real, {t}× | imaginary, {t}× |")).collect();
        let _ = writeln!(text, "| |{head}\n|---|{}", "---|".repeat(2 * times.len()));
        let mut line = |name: &str, wanted: &dyn Fn(Component) -> Option<(Component, Change)>| {
            let cells: Vec<String> = times
                .iter()
                .flat_map(|&times| {
                    [Component::Real, Component::Imaginary].map(|component| {
                        let found = |one: &Measured| {
                            one.reach == Reach::Full
                                && one.times == times
                                && one.ablation == wanted(component)
                        };
                        perplexities(of, found).map_or_else(String::new, Spread::text)
                    })
                })
                .collect();
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        };
        line("as trained", &|_| None);
        for change in changes {
            let name = match change {
                Change::Noise(sigma) => format!("noise of {sigma} on its queries"),
                Change::Nothing => "its heads left out".to_owned(),
            };
            line(&name, &|component| Some((component, change)));
        }
    }
}
