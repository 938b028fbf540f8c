//! The kernels on a device, held to the f64 oracle.
//!
//! One binary, one device: kernels compile once each and are shared by all tests, since a software
//! adapter takes its time over every new shader. Without an adapter the tests fail.

mod attention;
mod attention_backward;
mod decode;
mod edges;
mod faults;
mod harness;
mod invariants;
mod kernels;
mod kv_append;
mod kv_move;
mod layers;
mod limits;
mod linear_attention;
mod linear_attention_backward;
mod matrix;
mod merge;
mod mutated;
mod pipeline_cache;
mod race;
mod random;
mod real_caches;
mod rope;
mod scores;
mod selftest;
mod tuner;
mod wrong_calls;
