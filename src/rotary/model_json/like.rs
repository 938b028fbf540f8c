//! Saying on purpose what a model is whose type is not in the table.

use crate::rotary::{Pairing, Turn};

/// What a model's rotary embedding is like, stated by the caller because
/// [`Error::UnknownModel`](crate::Error::UnknownModel) says that its type is not known.
///
/// Pairing, direction, the spelling of keys and the kinds of layers are those of the known model;
/// the defaults of its configuration class are not, so that everything with a number must be in
/// the file. What differs is overwritten:
///
/// ```
/// use phasor::rotary::{Like, ModelRope, Pairing};
///
/// # fn main() -> phasor::Result<()> {
/// let json = r#"{"model_type": "brand_new", "head_dim": 64, "rope_theta": 1e6}"#;
/// assert!(ModelRope::from_json(json).is_err());
/// let like = Like { pairing: Some(Pairing::Interleaved), ..Like::model("llama") };
/// let model = ModelRope::from_json_like(json, &like)?;
/// let rope = &model.only()?.rope;
/// assert_eq!((rope.theta, rope.pairing), (1e6, Pairing::Interleaved));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Like<'a> {
    /// `model_type` of a known model.
    pub model_type: &'a str,
    /// Channels of each pair, where they differ from that model's.
    pub pairing: Option<Pairing>,
    /// Which way the pairs turn, where it differs from that model's.
    pub direction: Option<Turn>,
}

impl<'a> Like<'a> {
    /// The rotary embedding of a known model.
    pub fn model(model_type: &'a str) -> Self {
        Like { model_type, pairing: None, direction: None }
    }
}
