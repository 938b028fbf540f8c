//! The curve of a run.

/// Means of steps beside each other, of which a single one is noise, and how many steps those are.
fn means(losses: &[f32], most: usize) -> (usize, impl Iterator<Item = f64>) {
    let together = losses.len().div_ceil(most).max(1);
    let mean =
        |part: &[f32]| part.iter().map(|&loss| f64::from(loss)).sum::<f64>() / part.len() as f64;
    (together, losses.chunks(together).map(mean))
}

/// Losses of training as a line of text: `4.19 █▆▅▄▄▃▃▂▂▁▁ 1.85`.
pub fn text(losses: &[f32]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let means: Vec<f64> = means(losses, 48).1.collect();
    let least = means.iter().copied().fold(f64::INFINITY, f64::min);
    let most = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let bar = |&mean: &f64| {
        let height = (mean - least) / (most - least).max(f64::MIN_POSITIVE);
        BARS[(height * 7.0).round() as usize]
    };
    let bars: String = means.iter().map(bar).collect();
    match (losses.first(), losses.last()) {
        (Some(first), Some(last)) => format!("{first:.2} {bars} {last:.2}"),
        _ => bars,
    }
}

/// Draws `loss.png` and `loss.svg`: training, held-out text and a bigram model.
///
/// # Errors
/// Where a file cannot be written.
#[cfg(feature = "plots")]
pub fn draw(folder: &std::path::Path, record: &crate::checkpoint::Record) -> crate::Result<()> {
    use plots::{Line, Panel};

    let (together, losses) = means(&record.loss, 100);
    let steps = record.loss.chunks(together).scan(0, |done, part| {
        *done += part.len();
        Some(*done as f64 - part.len() as f64 / 2.0)
    });
    let training = steps.zip(losses).map(|(step, mean)| [step, mean, mean, mean]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_bars() {
        assert_eq!(text(&[4.0, 2.0, 1.0, 0.5]), "4.00 █▄▂▁ 0.50");
        assert_eq!(text(&[1.0; 3]), "1.00 ▁▁▁ 1.00");
        assert_eq!(text(&[2.0; 1000]).chars().filter(|c| *c == '▁').count(), 48);
        assert_eq!(text(&[]), "");
    }
}
