//! One file (or folder) a kernel, each the same way: problem → plan → kernel → bind → record.
//! Kernels never import each other, but for decode, which ends in merge where it splits the keys.

pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod decode;
pub(crate) mod kv_append;
pub(crate) mod kv_move;
pub(crate) mod linear_attention;
pub(crate) mod merge;
pub(crate) mod rope;
pub(crate) mod scores;
