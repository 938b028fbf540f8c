//! How well a model foretells text that it was not trained on.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Result;
use crate::model::Lm;
use crate::optimizer::values;

/// Mean loss of the first characters of a text, in windows of a length that begin anew.
///
/// # Errors
/// As [`loss_by_position`].
pub fn held_out_loss(model: &Lm, text: &[u8], length: usize, characters: usize) -> Result<f64> {
    let logits = |tokens| model.logits(tokens);
    Ok(mean(&loss_by_position(logits, &model.device(), text, length, characters)?))
}

/// Of the losses of all positions.
pub fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}

/// Mean loss at every position of windows of a length that begin anew.
///
/// # Errors
/// Where the text holds no window.
pub fn loss_by_position(
    logits: impl Fn(Tensor<2, Int>) -> Result<Tensor<3>>,
    device: &Device,
    text: &[u8],
    length: usize,
    characters: usize,
) -> Result<Vec<f64>> {
    let held = text.len();
    if held < length + 1 {
        return Err(format!("{held} held-out characters, a window takes {}", length + 1).into());
    }
    let windows = (characters.min(held - 1) / length).max(1);
    let together = together(length);
    let mut sums = vec![0f64; length];
    for first in (0..windows).step_by(together) {
        let batch = together.min(windows - first);
        let rows = (first..first + batch).flat_map(|n| &text[n * length..=(n + 1) * length]);
        let tokens: Vec<i32> = rows.map(|&token| i32::from(token)).collect();
        let data = TensorData::new(tokens, [batch, length + 1]);
        let tokens = Tensor::<2, Int>::from_data(data, device);
        let read = logits(tokens.clone().narrow(1, 0, length))?;
        let losses = losses(read, tokens.narrow(1, 1, length));
        for row in values(losses)?.chunks(length) {
            sums.iter_mut().zip(row).for_each(|(sum, &loss)| *sum += f64::from(loss));
        }
    }
    Ok(sums.into_iter().map(|sum| sum / windows as f64).collect())
}

/// Windows of a length that are read at once: about as many rows as in training.
pub fn together(length: usize) -> usize {
    (2048 / length).max(1)
}

/// The loss of every next token, `[B, S]`, of logits `[B, S, vocabulary]`.
fn losses(logits: Tensor<3>, next: Tensor<2, Int>) -> Tensor<2> {
    let [batch, seq] = next.dims();
    let next = next.reshape([batch, seq, 1]);
    log_softmax(logits, 2).gather(2, next).neg().reshape([batch, seq])
}
