//! The table of models: one row a model type. A type that is not in it is refused by name.
//!
//! Facts are those of Hugging Face transformers 5.24.0 (each model's own configuration class and
//! code), and of the code that comes with the weights for the models in `remote.rs`. A row says
//! which channels are a pair, which way they turn, where head dimension, base and rotated share
//! are found and what they are where a file leaves them out, and how layers differ.

mod half;
mod interleaved;
mod kinds;
mod none;
mod remote;
mod row;
mod sections;
mod wrappers;

pub(super) use row::{Extra, Head, Kind, Layers, Pairs, Row, Scale, Share, Streams, Unrotated};
pub(super) use wrappers::Wrapper;

/// What the table says of a model type.
pub(super) enum Entry {
    Rope(&'static Row),
    Inside(&'static Wrapper),
    /// Nothing to read, and why.
    Nothing(&'static str),
}

const ROWS: [&[Row]; 5] =
    [half::ROWS, interleaved::ROWS, interleaved::LATENT, kinds::ROWS, remote::ROWS];

pub(super) fn find(model_type: &str) -> Option<Entry> {
    if let Some(row) = ROWS.iter().copied().flatten().find(|row| row.name == model_type) {
        return Some(Entry::Rope(row));
    }
    if let Some(wrapper) = wrappers::WRAPPERS.iter().find(|w| w.name == model_type) {
        return Some(Entry::Inside(wrapper));
    }
    none::reason(model_type).map(Entry::Nothing)
}
