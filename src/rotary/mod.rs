//! Rotary position embedding without a GPU: pairings, inverse frequencies, cos/sin tables.

mod pairing;

pub use pairing::Pairing;
