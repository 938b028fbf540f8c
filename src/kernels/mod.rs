//! One file (or folder) a kernel, each the same way: problem → plan → kernel → bind → record.
//! Kernels never import each other.

pub mod attention;
pub mod linear_attention;
pub mod rope;
pub mod scores;
