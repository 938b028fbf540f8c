//! Pure decisions, testable without a GPU: what the device can do, and from it the path, the tile
//! and the cost of a call. Nothing here names a wgpu type.

pub mod attention;
mod capabilities;
pub mod rope;
mod shader;

pub use capabilities::Capabilities;
pub use shader::Shader;
