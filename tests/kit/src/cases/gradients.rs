//! Cases of gradients.

use phasor::Phase;

use super::{AttentionCase, Expected, LinearCase, Matrix, Rotation};

/// An attention call and the gradients of a loss behind it.
#[derive(Debug, Clone)]
pub struct BackwardCase {
    pub attention: AttentionCase,
    /// `[B, H_out, Sq, Dv]`.
    pub d_out: Vec<f32>,
    /// `[B, H_out, Sq]`.
    pub d_lse: Option<Vec<f32>>,
    pub gradients: Vec<(Gradient, Expected)>,
}

/// With respect to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// Un-rotated, where the case rotates.
    Q,
    K,
    V,
    /// After the rotation.
    QRotated,
    KRotated,
    Sinks,
    Bias,
    AlibiSlopes,
}

/// An attention layer with its projections, and the gradients of its input and weights.
#[derive(Debug, Clone)]
pub struct LayerBackwardCase {
    pub name: String,
    /// `[B, S, hidden]`.
    pub x: Vec<f64>,
    pub d_output: Vec<f64>,
    /// Of q, k, v and the output.
    pub weights: [Matrix; 4],
    pub attention: BackwardCase,
    pub output: Expected,
    pub d_x: Expected,
    pub d_weights: [Expected; 4],
}

/// The gradient of a rotation.
#[derive(Debug, Clone)]
pub struct RopeBackwardCase {
    pub name: String,
    pub d_y: Vec<f32>,
    pub shape: [u32; 4],
    pub rotation: Rotation,
    /// The vectors were turned by −φ as well.
    pub phase: Phase,
    pub expected: Expected,
}

/// Linear attention and the gradients of q, k and v before their features.
#[derive(Debug, Clone)]
pub struct LinearBackwardCase {
    pub linear: LinearCase,
    /// `[B, Hq, Sq, Dv]`.
    pub d_out: Vec<f32>,
    pub gradients: [Expected; 3],
}
