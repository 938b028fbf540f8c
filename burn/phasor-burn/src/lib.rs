#![doc = include_str!("../README.md")]

mod attention;
mod device;
mod error;
pub mod formula;
mod launch;
mod module;
mod ops;
mod options;
mod rotary;

pub use attention::{ropepp_attention, ropepp_attention_lse};
pub use device::{attach, init, share};
pub use error::{Error, Result};
pub use module::{Implementation, Mode, RotaryAttention, RotaryAttentionConfig};
pub use options::{AttentionOptions, Heads};
pub use phasor;
pub use rotary::{Positions, Rotary};
