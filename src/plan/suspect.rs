//! What a device was seen to get wrong, and plans therefore leave out.

use super::attention::Tile;
use super::cache::CacheType;
use crate::{Capabilities, Error, Result};

/// A kernel, a tile or a storage that can be left out by itself, where a device gets it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Suspect {
    /// All of it: nothing that the device computes comes out right.
    Device,
    /// The rotation of Q and K.
    Rope,
    /// Appends to a cache.
    KvAppend,
    /// Moves of cache rows.
    KvMove,
    /// Attention in this tile. Other tiles take its place.
    Attention(Tile),
    /// The gradients of attention.
    AttentionBackward,
    /// Decode over a cache.
    Decode,
    /// The merge of attention over parts of the keys.
    Merge,
    /// RoFormer's linear attention.
    LinearAttention,
    /// Raw scores and statistics of rows.
    Scores,
    /// Tensors and caches that are stored so; f32 is never left out.
    Storage(CacheType),
}

impl core::fmt::Display for Suspect {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Suspect::Device => f.write_str("the device"),
            Suspect::Rope => f.write_str("rope"),
            Suspect::KvAppend => f.write_str("kv_append"),
            Suspect::KvMove => f.write_str("kv_move"),
            Suspect::Attention(tile) => write!(f, "attention in tiles of {tile}"),
            Suspect::AttentionBackward => f.write_str("attention backward"),
            Suspect::Decode => f.write_str("decode"),
            Suspect::Merge => f.write_str("merge"),
            Suspect::LinearAttention => f.write_str("linear attention"),
            Suspect::Scores => f.write_str("scores"),
            Suspect::Storage(stored) => write!(f, "storage in {stored}"),
        }
    }
}

/// What is left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// What is left out.
    pub suspect: Suspect,
    /// What was wrong with it.
    pub reason: String,
}

impl core::fmt::Display for Quarantine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.suspect, self.reason)
    }
}

impl Capabilities {
    /// The same device without one of them: later plans leave it out and say why, or are refused with
    /// [`Error::Quarantined`] where nothing can take its place.
    #[must_use]
    pub fn without(mut self, suspect: Suspect, reason: impl Into<String>) -> Self {
        if !self.quarantined.iter().any(|other| other.suspect == suspect) {
            self.quarantined.push(Quarantine { suspect, reason: reason.into() });
        }
        self
    }

    /// Why it is left out, if it is.
    pub fn quarantine(&self, suspect: Suspect) -> Option<&Quarantine> {
        self.quarantined
            .iter()
            .find(|other| other.suspect == suspect || other.suspect == Suspect::Device)
    }

    /// Refuses what is left out.
    pub(crate) fn allow(&self, suspect: Suspect) -> Result<()> {
        match self.quarantine(suspect) {
            None => Ok(()),
            Some(Quarantine { suspect, reason }) => {
                Err(Error::Quarantined { suspect: *suspect, reason: reason.clone() })
            }
        }
    }

    /// Refuses a kernel or a storage that is left out.
    pub(crate) fn allow_stored<S: Into<CacheType>>(
        &self,
        suspect: Suspect,
        stored: impl IntoIterator<Item = S>,
    ) -> Result<()> {
        self.allow(suspect)?;
        stored.into_iter().try_for_each(|stored| self.allow(Suspect::Storage(stored.into())))
    }
}
