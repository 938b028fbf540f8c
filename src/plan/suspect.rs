//! What a device was seen to get wrong, and plans therefore leave out.

use super::KernelKind;
use super::attention::Tile;
use super::cache::CacheType;
use crate::{Capabilities, Error, Result};

/// A kernel, a tile or a storage that can be left out by itself, where a device gets it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Suspect {
    /// All of it: nothing that the device computes comes out right.
    Device,
    /// All calls of a kernel.
    Kernel(KernelKind),
    /// Attention in this tile. Other tiles take its place.
    Tile(Tile),
    /// Tensors and caches that are stored so; f32 is never left out.
    Storage(CacheType),
}

impl Suspect {
    /// The kernel that it is about, if it is about one.
    pub fn kernel(self) -> Option<KernelKind> {
        match self {
            Suspect::Kernel(kernel) => Some(kernel),
            Suspect::Tile(_) => Some(KernelKind::Attention),
            Suspect::Device | Suspect::Storage(_) => None,
        }
    }
}

impl core::fmt::Display for Suspect {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Suspect::Device => f.write_str("the device"),
            Suspect::Kernel(kernel) => kernel.fmt(f),
            Suspect::Tile(tile) => write!(f, "attention in tiles of {tile}"),
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
    /// The same device without one of them: later plans leave it out and say why, or are refused
    /// with [`Error::Quarantined`] where nothing can take its place.
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
        kernel: KernelKind,
        stored: impl IntoIterator<Item = S>,
    ) -> Result<()> {
        self.allow(Suspect::Kernel(kernel))?;
        stored.into_iter().try_for_each(|stored| self.allow(Suspect::Storage(stored.into())))
    }
}
