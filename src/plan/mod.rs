//! Pure decisions, testable without a GPU: what the device can do, and from it the path, the tile
//! and the cost of a call. Nothing here knows a device; of wgpu it takes naga, to check the
//! caller's WGSL.

pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod binding;
mod budget;
pub(crate) mod cache;
mod capabilities;
mod channels;
mod cost;
pub(crate) mod decode;
mod head_rows;
mod hook;
mod kernel;
pub(crate) mod kv_append;
pub(crate) mod kv_move;
pub(crate) mod linear_attention;
pub(crate) mod linear_attention_backward;
mod matrices;
pub(crate) mod merge;
pub(crate) mod rope;
pub(crate) mod rules;
pub(crate) mod scores;
mod shader;
mod sharing;
pub(crate) mod softmax;
mod suspect;
mod text;

pub use budget::Budget;
pub use capabilities::Capabilities;
pub use cost::Cost;
pub(crate) use cost::rotation_flops;
pub use hook::{FeatureHook, MaskHook, ScoreHook};
pub use kernel::KernelKind;
pub use matrices::{Matrices, MatrixSide, NoMatrices, Precision, Trust};
pub use shader::{BindingType, Shader, Wishes};
pub use sharing::Sharing;
pub use suspect::{Quarantine, Suspect};
pub use text::Declared;
