//! The kernels on wgpu: capabilities of a device, pipelines, and dispatches made of a plan's
//! recipes. No floor below names wgpu's types. Nothing here submits, polls, maps or blocks.
//!
//! # Faults
//!
//! The crate sets no handler and opens no error scope, so nothing that wgpu says is swallowed: it
//! reaches the caller's scope, uncaptured-error handler (wgpu's own panics) or lost callback. Held
//! by `tests/gpu/faults.rs`.
//!
//! | fault | what the caller gets |
//! |---|---|
//! | a lost device, or one out of memory | [`Error::Device`](crate::Error::Device) from compiling and binding; the lost callback, or `OutOfMemory` in the scope |
//! | a workspace or output that could not be made | wgpu's error when it was made, and a validation error when it is bound |
//! | a destroyed buffer | a validation error when it is bound, or, destroyed later, when it is submitted |
//! | a mapped buffer | a validation error when it is submitted |
//! | several threads | kernels, plans and dispatches are `Send + Sync`, as wgpu's types are: bind and record at once |

mod binding;
mod capabilities;
mod dispatch;
mod kernel;
mod kernels;
mod names;
mod owned;
mod pipeline;

pub use dispatch::{BoundBuffer, Dispatch, Part};
pub use kernel::Kernel;
pub use kernels::Kernels;
pub use names::*;
pub use pipeline::Compiler;
