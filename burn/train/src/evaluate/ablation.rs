//! Which heads matter: noise on the real or the imaginary query, as in the paper's ablation (arXiv
//! 2512.07525), and heads left out. Attention is the formula, with every output head's query made
//! on its own.

use burn::tensor::{Distribution, Tensor};
use phasor_burn::{AttentionOptions, Positions, Rotary, RotaryAttention, formula};
use serde::{Deserialize, Serialize};

use crate::Result;

/// The heads of one component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    Real,
    Imaginary,
}

/// What is done to them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Normal noise on their queries, so many times the root mean square of a channel.
    Noise(f64),
    /// Their outputs are zeros.
    Nothing,
}

/// Component and change.
pub type Ablation = (Component, Change);

/// As [`RotaryAttention::forward`] of a layer with real and imaginary heads, changed.
///
/// # Errors
/// As [`formula::attention`].
pub fn attend(
    layer: &RotaryAttention,
    rotary: &Rotary,
    head_dim: usize,
    x: Tensor<3>,
    (component, change): Ablation,
) -> Result<Tensor<3>> {
    let [batch, seq, width] = x.dims();
    let x = x.reshape([batch * seq, width]);
    let heads = |x: Tensor<2>| {
        let heads = x.dims()[1] / head_dim;
        x.reshape([batch, seq, heads, head_dim]).swap_dims(1, 2)
    };
    let start = Positions::From(0);
    let q = formula::query(rotary, heads(layer.query.forward(x.clone())), &start)?;
    let k = formula::key(rotary, heads(layer.key.forward(x.clone())), &start)?;
    let v = heads(layer.value.forward(x));
    // (a, b) turned by −π/2 is (b, −a).
    let half = head_dim / 2;
    let turned =
        Tensor::cat(vec![q.clone().narrow(3, half, half), q.clone().narrow(3, 0, half).neg()], 3);
    let noisy = |q: Tensor<4>, of: Component| match change {
        Change::Noise(sigma) if of == component => {
            let rms = q.clone().square().mean().sqrt().reshape([1, 1, 1, 1]);
            let noise = q.random_like(Distribution::Normal(0.0, sigma));
            q + noise * rms
        }
        _ => q,
    };
    let (q, turned) = (noisy(q, Component::Real), noisy(turned, Component::Imaginary));
    let [_, q_heads, _, _] = q.dims();
    let q = Tensor::stack::<5>(vec![q, turned], 2).reshape([batch, 2 * q_heads, seq, head_dim]);
    let out = formula::attention(q, k, v, &AttentionOptions::plain())?;
    let out = out.reshape([batch, q_heads, 2, seq, head_dim]);
    let out = match change {
        Change::Noise(_) => out,
        Change::Nothing => {
            let kept = out.clone().narrow(2, usize::from(component == Component::Real), 1);
            let parts = match component {
                Component::Real => vec![kept.zeros_like(), kept],
                Component::Imaginary => vec![kept.clone(), kept.zeros_like()],
            };
            Tensor::cat(parts, 2)
        }
    };
    let out = out.reshape([batch, 2 * q_heads, seq, head_dim]).swap_dims(1, 2);
    let out = layer.output.forward(out.reshape([batch * seq, 2 * q_heads * head_dim]));
    Ok(out.reshape([batch, seq, width]))
}
