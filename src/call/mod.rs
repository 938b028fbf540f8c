//! What calls are made of, for any host: tensors over its buffers, the checks that they pass, and
//! the recipe that comes of them. Nothing here names wgpu.

mod binding;
mod cache;
mod checker;
mod lists;
mod places;
mod plan;
mod recipe;
mod rotary;
mod shapes;
mod strides;
mod tensor;

pub use binding::{Binding, Extent, Range};
pub(crate) use cache::CacheParams;
pub use cache::{BlockTable, CacheBindings, CacheTensor};
pub(crate) use checker::{Access, Checker, present};
pub(crate) use lists::pack;
pub(crate) use places::{FAR, NO_WINDOW, place_of_query};
pub(crate) use plan::sealed;
pub use plan::{Plan, Problem};
pub use recipe::{Entry, Recipe, Resource, Step};
pub use rotary::{CosSin, Positions, Rotation};
pub(crate) use rotary::{Reach, RotaryParams};
pub(crate) use strides::Strides;
pub use tensor::Tensor;
