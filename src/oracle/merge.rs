//! Merging attention over parts of the keys.

use super::{Attended, Real};
use crate::{Error, Result};

/// Attended over disjoint sets of keys as attention over all of them:
/// `out = Σ e^(lse_p − M) out_p / Σ e^(lse_p − M)`, `lse = M + ln Σ e^(lse_p − M)`, M the largest
/// log-sum-exp. A part that saw no key has −∞, and its output is not read.
///
/// `sinks`, if any, has one logit for each log-sum-exp of a part, and joins the sum.
///
/// # Errors
/// [`Error::Invalid`] when there is no part, or parts have different lengths.
pub fn merge_states<R: Real>(parts: &[Attended<R>], sinks: Option<&[R]>) -> Result<Attended<R>> {
    let invalid = |needed| Error::Invalid {
        what: "parts",
        needed,
        got: format!("{:?}", parts.iter().map(|p| (p.out.len(), p.lse.len())).collect::<Vec<_>>()),
    };
    let first = parts.first().ok_or_else(|| invalid("at least one"))?;
    let rows = first.lse.len();
    let same = |part: &Attended<R>| part.lse.len() == rows && part.out.len() == first.out.len();
    let divides = rows > 0 && first.out.len().is_multiple_of(rows);
    if !parts.iter().all(same) || !divides || sinks.is_some_and(|sinks| sinks.len() != rows) {
        return Err(invalid("of the same length, a whole number of rows"));
    }
    let dim = first.out.len() / rows;
    let mut whole = Attended { out: Vec::new(), lse: Vec::new() };
    for row in 0..rows {
        let sink = sinks.map_or(R::NEG_INFINITY, |sinks| sinks[row]);
        let top = parts.iter().fold(sink, |top, part| top.max(part.lse[row]));
        if top == R::NEG_INFINITY {
            whole.out.extend(core::iter::repeat_n(R::ZERO, dim));
            whole.lse.push(top);
            continue;
        }
        let seen = || parts.iter().filter(|part| part.lse[row] != R::NEG_INFINITY);
        let mut sum = (sink - top).exp();
        seen().for_each(|part| sum += (part.lse[row] - top).exp());
        whole.out.extend((0..dim).map(|c| {
            let mut x = R::ZERO;
            seen().for_each(|part| x += (part.lse[row] - top).exp() * part.out[row * dim + c]);
            x / sum
        }));
        whole.lse.push(top + sum.ln());
    }
    Ok(whole)
}
