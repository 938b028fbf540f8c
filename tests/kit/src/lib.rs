//! Convenience for phasor's own tests, benches and examples: a device of one's own, uploads and
//! downloads that block, and golden files. The crate itself has none of this: an engine brings its
//! own device, queue, buffers and encoder.

pub mod cases;
pub mod golden;
pub mod gpu;
pub mod replay;
pub mod runner;
pub mod tolerance;
