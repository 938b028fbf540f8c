//! How the tensors of a call may lie in buffers.

use super::shader::{BindingType, Shader};

/// Whether tensors that are written may lie in one buffer with others.
///
/// WebGPU takes one use of a buffer within a dispatch: read-only, or writable. Hosts that cut all
/// tensors out of one pool declare everything writable, and so does a plan that is made for them.
/// It costs what a compiler makes of `readonly`: on lavapipe 3 % at most, in Mesa's compilers for
/// two GPUs nothing (`docs/measurements.md`); no GPU was timed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sharing {
    /// What is written lies in buffers of its own. Inputs share as they like: q, k and v may be
    /// views of one range.
    #[default]
    Apart,
    /// All tensors may lie in one buffer, in ranges that do not overlap.
    Ranges,
    /// As [`Sharing::Ranges`], but q, k and v (and a cache that is only read) are bound read-only:
    /// they may be views of one range, such as a fused projection, in a buffer that the call writes
    /// nothing to.
    RangesButViews,
}

impl Sharing {
    /// Whether a binding of this name is read-only however the rest is shared: in a shader, or in a
    /// call, where a cache has names of its own.
    pub(crate) fn stays_read_only(self, name: &str) -> bool {
        match self {
            Self::Apart => true,
            Self::Ranges => false,
            Self::RangesButViews => {
                matches!(name, "q" | "k" | "v" | "q_in" | "k_in" | "k_cache" | "v_cache")
            }
        }
    }

    /// What a plan says of it: how buffers may be shared, and which of its bindings are read-only
    /// however that is. Nothing where they are apart.
    pub(crate) fn describe<'a>(
        self,
        f: &mut core::fmt::Formatter<'_>,
        shaders: impl IntoIterator<Item = &'a Shader>,
    ) -> core::fmt::Result {
        if self == Self::Apart {
            return Ok(());
        }
        write!(f, "\n  buffers: {self}")?;
        let bindings = shaders.into_iter().flat_map(Shader::bindings);
        let mut names: Vec<_> = bindings
            .filter(|one| one.ty == BindingType::ReadOnlyStorage)
            .map(|one| one.name)
            .collect();
        names.sort_unstable();
        names.dedup();
        match names.is_empty() {
            true => Ok(()),
            false => write!(f, "; read-only: {}", names.join(", ")),
        }
    }
}

impl core::fmt::Display for Sharing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Apart => "what is written lies in buffers of its own",
            Self::Ranges => "all may lie in one buffer, every storage binding writable",
            Self::RangesButViews => "all may lie in one buffer, but for views of one range",
        })
    }
}
