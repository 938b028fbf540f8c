//! What the rules of frequencies are made of: series, blends of them, and checks of their numbers.

use super::dd::Dd;
use crate::{Error, Result};

/// `base^(−2i/dim)` for i in 0 .. dim/2.
pub(super) fn geometric(base: Dd, dim: u32) -> Vec<Dd> {
    let ln = base.ln();
    let exponent = |i: u32| -Dd::ratio(f64::from(2 * i), f64::from(dim));
    (0..dim / 2).map(|i| (ln * exponent(i)).exp()).collect()
}

/// `(1 − t) a + t b`, exactly `b` at t = 1.
pub(super) fn mix(a: Dd, b: Dd, t: Dd) -> Dd {
    a * (Dd::ONE - t) + b * t
}

/// Lets positive finite numbers pass.
pub(super) fn positive(what: &'static str, x: f64) -> Result<f64> {
    if x.is_finite() && x > 0.0 { Ok(x) } else { invalid(what, "a positive number", x) }
}

/// Lets `high` pass when both are finite and it lies above `low`.
pub(super) fn ordered(what: &'static str, needed: &'static str, low: f64, high: f64) -> Result<()> {
    if low.is_finite() && high.is_finite() && low < high {
        Ok(())
    } else {
        invalid(what, needed, format!("{high} against {low}"))
    }
}

/// Lets context lengths from 1 to 2^53 pass.
pub(super) fn length(what: &'static str, n: u64) -> Result<Dd> {
    if (1..=1 << 53).contains(&n) { Ok(Dd::from(n as f64)) } else { invalid(what, "1 to 2^53", n) }
}

pub(super) fn invalid<T>(
    what: &'static str,
    needed: &'static str,
    got: impl ToString,
) -> Result<T> {
    Err(Error::Invalid { what, needed, got: got.to_string() })
}
