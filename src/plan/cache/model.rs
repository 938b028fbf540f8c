//! Caches of whole models: what one token takes.

use super::{CacheFormat, CacheType};
use crate::{Error, Result};

/// Which components a model attends with, as far as its cache is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// RoPE: the real component alone.
    Plain,
    /// RoPE++ EC (equal cache): both components, as many kv heads as the plain model.
    EqualCache,
    /// RoPE++ EH (equal heads): both components, half of the kv heads.
    EqualHeads,
}

/// A model, as far as its cache is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelShape {
    /// Attention layers.
    pub layers: u32,
    /// `num_key_value_heads` of the configuration; EH projects half as many.
    pub kv_heads: u32,
    /// D.
    pub head_dim: u32,
    /// D_v.
    pub value_dim: u32,
    /// Plain, EC or EH.
    pub kind: ModelKind,
    /// Storage of K.
    pub k: CacheType,
    /// Storage of V.
    pub v: CacheType,
}

impl ModelShape {
    /// The cache of one layer, contiguous and not rolling.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an odd number of kv heads with [`ModelKind::EqualHeads`], and for
    /// sizes that no cache has.
    pub fn cache(&self) -> Result<CacheFormat> {
        let kv_heads = match self.kind {
            ModelKind::Plain | ModelKind::EqualCache => self.kv_heads,
            ModelKind::EqualHeads if self.kv_heads.is_multiple_of(2) => self.kv_heads / 2,
            ModelKind::EqualHeads => {
                return Err(Error::Invalid {
                    what: "kv_heads",
                    needed: "even for EH, which halves them",
                    got: self.kv_heads.to_string(),
                });
            }
        };
        let Self { head_dim, value_dim, k, v, .. } = *self;
        let format = CacheFormat { value_dim, k, v, ..CacheFormat::new(kv_heads, head_dim) };
        format.check()?;
        Ok(format)
    }

    /// Bytes that one token takes in the caches of all layers.
    ///
    /// ```
    /// use phasor::cache::{CacheType, ModelKind, ModelShape};
    ///
    /// // The 376M models of the RoPE++ paper (arXiv 2512.07525): 8 layers, 4 kv heads of 128.
    /// let bytes = |kind| {
    ///     let (k, v) = (CacheType::F16, CacheType::F16);
    ///     ModelShape { layers: 8, kv_heads: 4, head_dim: 128, value_dim: 128, kind, k, v }
    ///         .bytes_per_token()
    /// };
    /// assert_eq!(bytes(ModelKind::Plain)?, 16384);
    /// assert_eq!(bytes(ModelKind::EqualCache)?, 16384);
    /// assert_eq!(bytes(ModelKind::EqualHeads)?, 8192);
    /// # Ok::<(), phasor::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`ModelShape::cache`].
    pub fn bytes_per_token(&self) -> Result<u64> {
        Ok(u64::from(self.layers).saturating_mul(self.cache()?.bytes_per_token()))
    }
}
