//! Rotary position embedding without a GPU: pairings, inverse frequencies, cos/sin tables.

mod axes;
mod config;
mod dd;
mod frequencies;
#[cfg(feature = "serde")]
mod model_json;
mod pairing;
mod rules;
mod shape;
mod table;
mod yarn;

pub use axes::{Axial2d, PositionAxes};
pub use config::RopeConfig;
pub use frequencies::{Frequencies, Xpos};
pub use pairing::Pairing;
pub use rules::RopeRule;
pub use shape::{TableAxes, TableShape};
pub use table::RopeTable;
pub use yarn::YarnParams;
