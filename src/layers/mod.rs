//! The attention of a whole model, above the kernels: what every engine needs of them and would
//! otherwise write by hand.
//!
//! ```text
//! Model          what: layers (heads, rope, window, sinks, storage of each), sequences, capacity;
//!                by hand, or from a `config.json` (feature `serde`: `Model::from_json`)
//!   .plan(&caps)?       how: kernels of every layer; bytes(), before anything is allocated
//! Layers::new(&device, &plan)?     compiles, several kernels at once; allocates caches and tables
//!   .bind(layer, ..)?              the host's q, k, v and out, once
//!   .start()?  .fork(..)?  .truncate(..)?  .shift(..)?  .end(..)?        sequences
//! and for every step
//!   .advance(&queue, &[(sequence, rows), ..])?     lengths, block tables, free pages
//!   .encode(layer, &mut encoder)?                  append and attention, between your own passes
//! ```
//!
//! - **The host keeps** device, queue, encoders, and q, k, v and out, as its projections write and
//!   read them. [`Layers`] never submits, polls, maps or blocks. What lies under it stays within
//!   reach: [`Layers::kernels`], [`Layers::cache`], [`Layers::table`], [`Layers::parts`], the
//!   plans.
//! - **Steps.** Sequences of any lengths go together, each with as many new rows as it has: a
//!   token, a draft, a chunk of a prompt. The rows lie one behind the other, in the order of
//!   `advance`. Few new rows are decoded, more go through prefill (or decode, 16 at a time, where
//!   [`Many`] says so); neighbours with equally many share a call.
//! - **The same bits.** What a sequence gets does not depend on the others of its step, its slot or
//!   its pages.
//! - **Steady state.** The calls of a step of a shape that was there before are bound already (16
//!   shapes are kept): such a step makes no GPU object and allocates nothing on the host beyond
//!   what wgpu does. Others bind anew in `advance`, which is where all checks are.
//! - **Changes.** Forks, truncations and shifts are bookkeeping on the host. What has to move moves
//!   first thing in the next step.
//! - **Errors** are raised before anything is recorded or written.
//!
//! # A program
//!
//! `cargo run --release --example decode` runs it.
//!
#![doc = concat!("```no_run\n", include_str!("example.rs"), "```")]

mod advance;
mod bytes;
mod calls;
mod compile;
#[cfg(feature = "serde")]
mod from_json;
mod memory;
mod model;
mod pages;
mod plan;
mod sequences;
mod state;
mod step;

pub use bytes::Bytes;
pub use calls::LayerBindings;
pub use compile::{LayerKernels, ManyKernel};
pub use model::{Layer, Model, Rows};
pub use plan::{LayerPlan, Many, ModelPlan};
pub use sequences::Sequence;
pub use state::Layers;
