//! One file (or folder) a kernel, each the same way: problem → plan → kernel → bind → record.
//! Kernels never import each other, but for decode, which ends in merge where it splits the keys.

pub mod attention;
pub mod decode;
pub mod kv_append;
pub mod kv_move;
pub mod linear_attention;
pub mod merge;
pub mod rope;
pub mod scores;
