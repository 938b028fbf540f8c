#![doc = include_str!("../README.md")]
// docs.rs says at each item which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Nothing that a caller does may end in a panic.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod dtype;
pub mod error;
pub mod features;
pub mod gpu;
pub mod heads;
pub mod kernels;
pub mod layout;
pub mod numerics;
pub mod oracle;
pub mod phase;
pub mod plan;
#[cfg(test)]
mod reflect;
pub mod rotary;
pub mod selftest;
#[cfg(not(target_arch = "wasm32"))]
pub mod tuner;

pub use dtype::DType;
pub use error::{Error, Result};
pub use gpu::{Dispatch, Tensor};
pub use heads::HeadMap;
pub use layout::Layout;
pub use phase::{OutputHead, Phase};
pub use plan::Capabilities;
#[cfg(not(target_arch = "wasm32"))]
pub use selftest::selftest;
pub use wgpu;
