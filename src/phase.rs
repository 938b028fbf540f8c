//! Which mixture of the real and the imaginary score an output head attends with.

use crate::bits::eq_by_bits;

/// The phase φ of an output head: it attends with `cos φ · S_re + sin φ · S_im`, where S_re is the
/// score of plain RoPE and S_im that of the query turned by −π/2 (RoPE++, arXiv 2512.07525 §3).
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    cos: f64,
    sin: f64,
}

eq_by_bits! {
    Phase { ; cos, sin }
}

impl Phase {
    /// φ = 0: plain RoPE attention.
    pub const REAL: Phase = Phase { cos: 1.0, sin: 0.0 };
    /// φ = π/2: the imaginary attention of RoPE++.
    pub const IMAGINARY: Phase = Phase { cos: 0.0, sin: 1.0 };

    /// Any phase, in radians.
    pub fn radians(phi: f64) -> Self {
        Phase { cos: phi.cos(), sin: phi.sin() }
    }

    /// cos φ, the weight of the real score.
    pub fn cos(self) -> f64 {
        self.cos
    }

    /// sin φ, the weight of the imaginary score.
    pub fn sin(self) -> f64 {
        self.sin
    }
}

/// One output head of an attention call: the query head it reads and the phase it attends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OutputHead {
    /// Query head, `0 .. q_heads`.
    pub source: u32,
    /// Mixture of the two scores.
    pub phase: Phase,
}
