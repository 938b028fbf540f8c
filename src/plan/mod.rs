//! Pure decisions, testable without a GPU: what the device can do, and from it the path, the tile
//! and the cost of a call. Nothing here names a wgpu type.

pub mod attention;
mod capabilities;
mod hook;
pub mod linear_attention;
pub mod rope;
pub mod scores;
mod shader;

pub use capabilities::Capabilities;
pub use hook::FeatureHook;
pub use shader::Shader;
