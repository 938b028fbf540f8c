//! What the plans of all kernels have in common.

use core::hash::Hash;

use super::{Binding, Recipe};
use crate::Result;
use crate::plan::{Capabilities, KernelKind, Shader};

/// A plan of any kernel: what it compiles, and the recipe of a call.
pub trait Plan: Clone + core::fmt::Debug + sealed::Planned {
    /// The kernel that it is a plan of.
    const KERNEL: KernelKind;

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

    /// Checks the tensors of a call, and says how to run it.
    ///
    /// # Errors
    /// As the kernel's `bind`.
    fn recipe<B: Binding>(
        &self,
        shape: &Self::Shape<'_>,
        bindings: &Self::Bindings<B>,
    ) -> Result<Recipe<B>>;

    /// Checks shapes, types and strides of a call's tensors, before there are buffers: what
    /// [`Plan::recipe`] checks over `()`. A host whose kernels run where an error can only be a
    /// panic (a framework's device thread) asks here first; what is left to go wrong then are
    /// ranges that are too small, misaligned, or lie over each other.
    ///
    /// ```
    /// use phasor::attention::{AttentionProblem, AttentionShape};
    /// use phasor::recipe::{AttentionBindings, Plan, Tensor};
    /// use phasor::{Capabilities, DType, Error, HeadMap, Layout};
    ///
    /// let plan = AttentionProblem::new(HeadMap::plain(4)?, 2, 64)
    ///     .plan(&Capabilities::webgpu_default())?;
    /// // Sizes, strides and offset as a framework has them.
    /// let tensor = |heads: usize, strides| {
    ///     Tensor::at((), DType::F32, Layout::strided([1, heads, 100, 64], strides, 0)?)
    /// };
    /// let q = tensor(4, [25600, 64, 256, 1])?; // a view of [B, S, H, D]
    /// let k = tensor(2, [12800, 6400, 64, 1])?;
    /// let out = tensor(4, [25600, 6400, 64, 1])?;
    /// let shape = AttentionShape::of(&q, &k)?;
    /// plan.check(&shape, &AttentionBindings::new(q.clone(), k.clone(), k.clone(), out.clone()))?;
    ///
    /// let wrong = tensor(4, [25600, 64, 258, 1])?; // rows begin at multiples of 4 elements
    /// let refused = plan.check(&shape, &AttentionBindings::new(wrong, k.clone(), k, out));
    /// assert!(matches!(refused, Err(Error::Stride { tensor: "q", .. })));
    /// # Ok::<(), phasor::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Plan::recipe`], but for what is wrong with ranges.
    fn check(&self, shape: &Self::Shape<'_>, bindings: &Self::Bindings<()>) -> Result<()> {
        self.recipe(shape, bindings).map(drop)
    }

    /// What it was planned for.
    fn capabilities(&self) -> &Capabilities {
        self.planned_for()
    }

    /// The same plan, to run on a device that offers `capabilities`.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) or [`Error::Feature`](crate::Error::Feature) where the
    /// device has less than the plan needs.
    fn on(&self, capabilities: Capabilities) -> Result<Self> {
        let mut plan = self.clone();
        *plan.planned_for_mut() = capabilities.for_plan(self.planned_for(), self.stages())?;
        Ok(plan)
    }
}

/// A problem of any kernel, which may be a key of a map: floats are compared by their bits.
pub trait Problem: Clone + Eq + Hash + core::fmt::Debug + sealed::Sealed {
    /// How it will run.
    type Plan: Plan;

    /// Decides how it runs on a device.
    ///
    /// # Errors
    /// Those of the problem's own method of this name.
    fn plan(&self, capabilities: &Capabilities) -> Result<Self::Plan>;
}

/// Implemented for the plans and problems of this crate alone.
pub(crate) mod sealed {
    pub trait Sealed {}

    /// What every plan keeps.
    pub trait Planned: Sealed {
        fn planned_for(&self) -> &crate::plan::Capabilities;
        fn planned_for_mut(&mut self) -> &mut crate::plan::Capabilities;
    }
}
