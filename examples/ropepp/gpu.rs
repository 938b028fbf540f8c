//! The layer on the GPU: rotation, plain attention, both components as two passes and as one.

use std::time::Duration;

use phasor::oracle::Attention;

use crate::{Result, layer::Layer};

/// What the GPU computed, and how long it took.
pub struct Run {
    /// Name and backend of the adapter.
    pub adapter: String,
    pub driver: String,
    /// The plans as they print themselves.
    pub plans: String,
    /// Rotated queries `[B, Hq, S, D]` and keys `[B, Hkv, S, D]`.
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    /// Plain RoPE attention, a head for every query head.
    pub plain: Attention<f32>,
    /// RoPE++ EC from one pass, heads re0, im0, re1, im1, …
    pub fused: Attention<f32>,
    pub times: Times,
}

/// Medians of several runs after a warm-up, from submission to completion.
pub struct Times {
    /// Queries and keys, one dispatch.
    pub rope: Duration,
    /// Real component alone.
    pub plain: Duration,
    /// The real and then the imaginary component, each in a pass of its own.
    pub two_passes: Duration,
    /// Both from one pass over K and V.
    pub fused: Duration,
}

pub fn run(_layer: &Layer) -> Result<Run> {
    Err("the kernels are not here yet".into())
}
