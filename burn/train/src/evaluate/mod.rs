//! How trained models do past the length that they were trained with.

mod ablation;
mod command;
mod loss;
#[cfg(feature = "plots")]
mod pictures;
mod reach;
mod report;

pub use command::{Arguments, evaluate};
pub use loss::held_out_loss;
