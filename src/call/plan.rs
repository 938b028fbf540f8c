//! What the plans of all kernels have in common.

use super::{Binding, Recipe};
use crate::Result;
use crate::plan::{Capabilities, Shader};

/// A plan of any kernel: what it compiles, and the recipe of a call.
pub trait Plan: Clone + core::fmt::Debug + sealed::Sealed {
    /// The sizes of a call.
    type Shape<'s>;
    /// The tensors of a call.
    type Bindings<B>;

    /// The shaders that calls run, in the order that [`Step::stage`](super::Step::stage) counts.
    fn stages(&self) -> Vec<&Shader>;

    /// The table that each stage reads, if it reads one: the bytes of the uniform buffer (or
    /// storage buffer, see the shader) that is bound where a recipe says
    /// [`Resource::Table`](super::Resource::Table). The same in every call.
    fn tables(&self) -> Vec<Option<Vec<u8>>>;

    /// Checks the tensors of a call, and says how to run it. With `()` in the place of ranges it
    /// checks shapes, types and strides alone; there it needs no buffer and no device.
    ///
    /// # Errors
    /// As the kernel's `bind`.
    fn recipe<B: Binding>(
        &self,
        shape: &Self::Shape<'_>,
        bindings: &Self::Bindings<B>,
    ) -> Result<Recipe<B>>;

    /// What it was planned for.
    fn capabilities(&self) -> &Capabilities;

    /// The same plan, to run on a device that offers `capabilities`.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) or [`Error::Feature`](crate::Error::Feature) where the
    /// device has less than the plan needs.
    fn on(&self, capabilities: Capabilities) -> Result<Self>;
}

/// Implemented for the plans of this crate alone.
pub(crate) mod sealed {
    pub trait Sealed {}
}
