//! phasor-burn on whatever adapter Burn's wgpu runtime finds: against the formula in Burn's
//! operations and against reference values of others' code.

mod attention;
mod devices;
mod errors;
mod golden;
mod module;
mod rotary;
mod support;
mod views;
