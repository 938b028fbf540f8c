//! What a device was seen to get wrong, and plans therefore leave out.

use super::attention::Tile;
use super::cache::CacheType;
use crate::{Capabilities, Error, Result};

/// A way to compute something that can be left out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
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

impl core::fmt::Display for Tier {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Tier::Device => f.write_str("the device"),
            Tier::Rope => f.write_str("rope"),
            Tier::KvAppend => f.write_str("kv_append"),
            Tier::KvMove => f.write_str("kv_move"),
            Tier::Attention(tile) => write!(f, "attention in tiles of {tile}"),
            Tier::AttentionBackward => f.write_str("attention backward"),
            Tier::Decode => f.write_str("decode"),
            Tier::Merge => f.write_str("merge"),
            Tier::LinearAttention => f.write_str("linear attention"),
            Tier::Scores => f.write_str("scores"),
            Tier::Storage(stored) => write!(f, "storage in {stored}"),
        }
    }
}

/// A tier that is left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// What is left out.
    pub tier: Tier,
    /// What was wrong with it.
    pub reason: String,
}

impl core::fmt::Display for Quarantine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.tier, self.reason)
    }
}

impl Capabilities {
    /// The same device without a tier: later plans leave it out and say why, or are refused with
    /// [`Error::Quarantined`] where nothing can take its place.
    #[must_use]
    pub fn without(mut self, tier: Tier, reason: impl Into<String>) -> Self {
        if !self.quarantined.iter().any(|other| other.tier == tier) {
            self.quarantined.push(Quarantine { tier, reason: reason.into() });
        }
        self
    }

    /// Why a tier is left out, if it is.
    pub fn quarantine(&self, tier: Tier) -> Option<&Quarantine> {
        self.quarantined.iter().find(|other| other.tier == tier || other.tier == Tier::Device)
    }

    /// Refuses a tier that is left out.
    pub(crate) fn allow(&self, tier: Tier) -> Result<()> {
        match self.quarantine(tier) {
            None => Ok(()),
            Some(Quarantine { tier, reason }) => {
                Err(Error::Quarantined { tier: *tier, reason: reason.clone() })
            }
        }
    }

    /// Refuses a kernel or a storage that is left out.
    pub(crate) fn allow_stored<S: Into<CacheType>>(
        &self,
        tier: Tier,
        stored: impl IntoIterator<Item = S>,
    ) -> Result<()> {
        self.allow(tier)?;
        stored.into_iter().try_for_each(|stored| self.allow(Tier::Storage(stored.into())))
    }
}
