//! Rotary position embedding without a GPU: pairings, inverse frequencies, cos/sin tables.
//!
//! Channels (a, b) of pair j at position t turn by the angle φ = t·`inv_freq[j]`:
//!
//! ```text
//! (a, b)  ->  m · (a cos φ − b sin φ,  b cos φ + a sin φ)
//! ```
//!
//! (and by −φ in the few models with [`Turn::Backward`]).
//!
//! [`RopeConfig`] says which channels are a pair ([`Pairing`]), how the frequencies follow from the
//! base θ ([`RopeRule`], which also gives the attention scaling m), and which of a token's
//! positions t is meant where there are several ([`PositionAxes`]). From it come [`Frequencies`],
//! and from those the [`RopeTable`] that kernels read. With the feature `serde`, `ModelRope` and
//! `RopeConfig::from_model_json` read a model's `config.json`.
//!
//! # Sources
//!
//! RoFormer (arXiv 2104.09864) for the embedding; position interpolation (2306.15595); YaRN
//! (2309.00071), of which two differing forms are in use; LongRoPE (2402.13753); xPos (2212.10554);
//! M-RoPE of Qwen2-VL (2409.12191); RoPE++ (2512.07525). Where papers leave something open, Hugging
//! Face transformers 5.23 decides, and the RoPE++ authors' code for the YaRN that they trained
//! with.
//!
//! # What is promised
//!
//! Every entry of a table is within 1 ulp of f32 of the exact value of its formula, for every
//! position up to 2^20 and every rule, also where sine or cosine come close to zero. Parameters
//! count as exactly the f64 that they are. To this end frequencies and blends are formed in
//! double-double arithmetic, kept as 128-bit fractions of a turn (2^-100 radians per position is
//! the smallest frequency other than 0 that has full precision), and reduced in integers; only the
//! remaining eighth of a turn goes through f64 sine and cosine. Later positions lose a bit for each
//! doubling, from more than 50 bits of reserve.
//!
//! # Against other libraries
//!
//! Most libraries form the angle in f32, as `f32(position) · f32(inv_freq)`. The rounding of the
//! frequency and of the product turns their vectors by up to 2^-24·φ each: a rotated component of
//! size 3 is off by 1e-4 at position 4095 and by up to 5e-3 at position 131071. That is their
//! error, and a comparison with them has to allow for it. To get the angles of a library that keeps
//! f32 frequencies but multiplies in f64, hand its frequencies over as [`RopeRule::Custom`].

mod axes;
mod blend;
mod config;
pub mod curves;
mod dd;
mod display;
mod frequencies;
#[cfg(feature = "serde")]
mod model_json;
mod pairing;
mod query_scaling;
mod rules;
mod shape;
mod table;
mod yarn;

/// What kernels bind of a table, shown here beside what it is made from.
#[cfg(feature = "wgpu")]
#[doc(inline)]
pub use crate::gpu::{CosSin, Positions, Rotation};
pub use axes::{Axial2d, PositionAxes};
pub use config::RopeConfig;
pub use frequencies::{Frequencies, Xpos};
#[cfg(all(feature = "serde", feature = "wgpu"))]
pub(crate) use model_json::{LayerAttention, attention};
#[cfg(feature = "serde")]
pub use model_json::{LayerRope, Like, ModelRope, UnrotatedLayers};
pub use pairing::{Pairing, Turn};
pub use query_scaling::QueryScaling;
pub use rules::RopeRule;
pub use shape::{TableAxes, TableShape};
pub use table::RopeTable;
pub use yarn::YarnParams;
