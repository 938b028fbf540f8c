//! The formulas, naive, generic over the precision. No tiles, no kernels, no GPU.
//!
//! At `f64` these functions say what the right answer is. At `f32` they are the honest naive
//! computation of the same thing, and its error against the f64 run is the yardstick for a kernel:
//! a kernel may be off by about twice as much, and no more.
//!
//! Tensors are dense row-major slices `[B, H, S, D]` (batch, head, position, channel).
//!
//! | kernel | its formula |
//! |---|---|
//! | `attention` | [`attention`], [`attention_with`]; on matrix units [`attention_rounded`] |
//! | `attention_backward` | [`attention_backward`] |
//! | `decode` | [`attention_with`], of what [`decode_rows`] reads |
//! | `kv_append` | [`rope`], then [`encode_rows`] |
//! | `kv_move` | [`rope`] at the new position, then [`encode_rows`] |
//! | `linear_attention` | [`linear_attention`], and as a recurrence [`linear_recurrence`] |
//! | `linear_attention_backward` | [`linear_attention_backward`], [`elu_plus_one_slope`], [`unrope`] |
//! | `merge` | [`merge_states`] |
//! | `rope` | [`rope`], [`unrope`] |
//! | `scores` | [`scores`], [`probabilities`], [`statistics`] |

mod attention;
mod attention_backward;
mod attention_rounded;
mod cache;
mod linear_attention;
mod linear_attention_backward;
mod merge;
mod real;
mod rope;
mod statistics;
#[cfg(test)]
mod tests;

pub use attention::{
    Attended, AttentionInputs, Place, attention, attention_with, probabilities, scores,
};
pub use attention_backward::{AttentionGradients, Upstream, attention_backward};
pub use attention_rounded::attention_rounded;
pub use cache::{decode_rows, encode_rows};
pub use linear_attention::{
    LinearInputs, LinearState, Side, elu_plus_one, favor, linear_attention, linear_recurrence,
};
pub use linear_attention_backward::{
    LinearGradients, elu_plus_one_slope, linear_attention_backward,
};
pub use merge::merge_states;
pub use real::Real;
pub use rope::{output_queries, rope, unrope};
pub use statistics::{Statistics, statistics};

use crate::{Error, Result};

/// Refuses a slice that does not hold exactly the elements of `shape`.
fn check_len(what: &'static str, len: usize, shape: [u32; 4]) -> Result<()> {
    let needed = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d as usize));
    if needed == Some(len) {
        Ok(())
    } else {
        Err(Error::Invalid {
            what,
            needed: "a dense tensor [B, H, S, D] of the shape given",
            got: format!("{len} elements for {shape:?}"),
        })
    }
}
