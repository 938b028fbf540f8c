//! Pure decisions, testable without a GPU: what the device can do, and from it the path, the tile
//! and the cost of a call. Nothing here names a wgpu type.

pub mod attention;
mod budget;
pub mod cache;
mod capabilities;
mod channels;
pub mod decode;
mod hook;
pub mod kv_append;
pub mod kv_move;
pub mod linear_attention;
pub mod merge;
pub mod rope;
pub mod scores;
mod shader;
mod tier;

pub use budget::Budget;
pub use capabilities::Capabilities;
pub use hook::{FeatureHook, MaskHook, ScoreHook};
pub use shader::Shader;
pub use tier::{Quarantine, Tier};
