//! What kernels share on wgpu: capabilities of a device, tensors over buffer bindings, pipelines,
//! dispatches. Nothing here submits, polls, maps or blocks.
//!
//! # Faults
//!
//! The crate sets no handler and opens no error scope, so nothing that wgpu says is swallowed: it
//! reaches the caller's scope, uncaptured-error handler (wgpu's own panics) or lost callback. Held by
//! `tests/gpu/faults.rs`.
//!
//! | fault | what the caller gets |
//! |---|---|
//! | a lost device, or one out of memory | [`Error::Device`](crate::Error::Device) from compiling and binding; the lost callback, or `OutOfMemory` in the scope |
//! | a workspace or output that could not be made | wgpu's error when it was made, and a validation error when it is bound |
//! | a destroyed buffer | a validation error when it is bound, or, destroyed later, when it is submitted |
//! | a mapped buffer | a validation error when it is submitted |
//! | several threads | kernels, plans and dispatches are `Send + Sync`, as wgpu's types are: bind and record at once |

mod cache;
mod call;
mod capabilities;
mod dispatch;
mod pipeline;
mod rotary;
mod strides;
mod tensor;

pub(crate) use cache::CacheParams;
pub use cache::{BlockTable, CacheBindings, CacheTensor};
pub(crate) use call::Call;
pub use dispatch::{BoundBuffer, Dispatch, Part, Step};
pub(crate) use dispatch::{UniformArray, params_buffer, uniform_buffer};
pub use pipeline::Compiler;
pub(crate) use pipeline::Pipeline;
pub use rotary::{CosSin, Positions, Rotation};
pub(crate) use rotary::{Reach, RotaryParams};
pub(crate) use strides::Strides;
pub use tensor::Tensor;
pub(crate) use tensor::{Access, Checker, present};
