//! The only floor that names wgpu: capabilities of a device, tensors over buffer bindings,
//! pipelines, dispatches. Nothing here submits, polls, maps or blocks.

mod cache;
mod capabilities;
mod dispatch;
mod pipeline;
mod rotary;
mod tensor;

pub(crate) use cache::{BLOCK_TABLE, CacheParams, CacheRows};
pub use cache::{BlockTable, CacheBindings, CacheTensor};
pub(crate) use dispatch::{Bind, UniformArray, Unused, uniform_buffer};
pub use dispatch::{BoundBuffer, Dispatch, Part, Step};
pub(crate) use pipeline::Pipeline;
pub(crate) use rotary::{COS_SIN, POSITION_IDS, RotaryParams};
pub use rotary::{CosSin, Positions};
pub use tensor::Tensor;
pub(crate) use tensor::{Access, Checker};
