//! The curve of a run.

use std::path::Path;

use plots::{Line, Panel};

use crate::Result;
use crate::checkpoint::Record;

/// Draws `loss.png` and `loss.svg`: training, held-out text and a bigram model.
///
/// # Errors
/// Where a file cannot be written.
pub fn draw(folder: &Path, record: &Record) -> Result<()> {
    // Means of steps beside each other: a single step is noise.
    let together = record.loss.len().div_ceil(100).max(1);
    let training = record.loss.chunks(together).enumerate().map(|(n, losses)| {
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        let mean = sum / losses.len() as f64;
        [(n * together) as f64 + losses.len() as f64 / 2.0, mean, mean, mean]
    });
    let held_out = record.held_out.iter().map(|&(step, loss)| [step as f64, loss, loss, loss]);
    let bigram = record.bigram_loss;
    let ends = [0.0, record.step as f64].map(|step| [step, bigram, bigram, bigram]);
    let line = |label: &str, colour, points| Line { label: label.to_owned(), colour, points };
    let panel = Panel {
        caption: format!("{}, {}", record.settings.mode.name(), record.text),
        x_title: "steps".to_owned(),
        y_title: "loss a character".to_owned(),
        doubling: false,
        lines: vec![
            line("training", 0, training.collect()),
            line("held out", 3, held_out.collect()),
            line("bigram model, held out", 4, ends.to_vec()),
        ],
    };
    plots::save(folder, "loss", &[panel])
}
