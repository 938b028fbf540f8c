//! Compiled kernels: a plan, and its pipelines on one device.

use std::sync::Arc;

use super::dispatch::Dispatch;
use super::pipeline::{Compiler, Stage};
use crate::Result;
use crate::call::Plan;
use crate::kernels::attention::AttentionBindings;
use crate::kernels::attention_backward::AttentionBackwardBindings;
use crate::plan::Budget;
use crate::plan::attention::{AttentionPlan, AttentionShape};
use crate::plan::attention_backward::AttentionBackwardPlan;
#[cfg(doc)]
use crate::{Error, call::Recipe};

/// A compiled kernel: [`Attention`](crate::attention::Attention) and its like. It belongs to the
/// device it was made on, is cheap to clone, and holds nothing that changes from call to call.
#[derive(Debug, Clone)]
pub struct Kernel<P> {
    plan: Arc<P>,
    stages: Arc<[Stage]>,
}

impl<P: Plan> Kernel<P> {
    /// Compiles `plan`, on a device or through a [`Compiler`]. Do this once for every
    /// configuration; it takes milliseconds on a GPU and can take seconds on a software adapter.
    ///
    /// # Errors
    /// [`Error::Limit`] when the device has less room than the plan was made for, [`Error::Device`]
    /// when it is lost or out of memory.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &P) -> Result<Self> {
        Self::compile(compiler.into(), plan, &[])
    }

    /// A kernel for another plan with the very same shader, without compiling again: problems that
    /// differ in scale, mask, window, maxima, sinks or, within limits, head counts. `None` where
    /// the shaders differ.
    ///
    /// # Errors
    /// As [`Kernel::new`].
    pub fn reuse<'a>(&self, compiler: impl Into<Compiler<'a>>, plan: &P) -> Result<Option<Self>> {
        let same = plan.stages().first() == self.plan.stages().first();
        same.then(|| Self::compile(compiler.into(), plan, &self.stages)).transpose()
    }

    /// Takes the pipelines that are among `known`, and compiles the others.
    fn compile(compiler: Compiler<'_>, plan: &P, known: &[Stage]) -> Result<Self> {
        let plan = plan.on(compiler.capabilities())?;
        let stages = plan.stages().into_iter().zip(plan.tables()).map(|(shader, table)| {
            let table = table.as_deref();
            match known.iter().find(|stage| *stage.shader == *shader) {
                Some(stage) => stage.clone().with_table(compiler.device(), table),
                None => Stage::new(compiler, shader, table),
            }
        });
        Ok(Self { stages: stages.collect::<Result<_>>()?, plan: Arc::new(plan) })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &P {
        &self.plan
    }

    /// Checks the tensors of a call and binds them.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage, types and
    /// limits; [`Error::Binding`] for a tensor that the problem needs and the call lacks, or the
    /// other way round; [`Error::Invalid`] for sizes beyond what was planned for;
    /// [`Error::TableTooShort`] where a row has a position past the table; [`Error::CacheFull`]
    /// where an append has no room. The buffers stay as they are.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        shape: &P::Shape<'_>,
        bindings: &P::Bindings<wgpu::BufferBinding<'_>>,
    ) -> Result<Dispatch> {
        let recipe = self.plan.recipe(shape, bindings)?;
        Dispatch::new(device, self.plan.capabilities(), &self.stages, &recipe)
    }

    /// Binds other buffers to a call that was bound before: same sizes, same layouts, same
    /// positions, anything else in the place of the buffers. For hosts whose buffers come from a
    /// pool and change from call to call. It makes a bind group for each dispatch, and nothing
    /// else; the parameters on the device stay. The host pays what wgpu takes for that, and for the
    /// checks of the call about a microsecond.
    ///
    /// # Errors
    /// As [`Kernel::bind`], and [`Error::Rebind`] where the call is another one: bind it anew. The
    /// dispatch stays as it was.
    pub fn rebind(
        &self,
        device: &wgpu::Device,
        dispatch: &mut Dispatch,
        shape: &P::Shape<'_>,
        bindings: &P::Bindings<wgpu::BufferBinding<'_>>,
    ) -> Result<()> {
        dispatch.rebind(device, &self.stages, &self.plan.recipe(shape, bindings)?)
    }
}

impl Kernel<AttentionPlan> {
    /// [`Kernel::bind`] for a call in dispatches of at most `budget` each, as
    /// [`AttentionPlan::cut`] says. Record them one at a time ([`Dispatch::parts`]), in as many
    /// submissions as you like and with other work between them, or all at once. Every budget gives
    /// the same bits.
    ///
    /// # Errors
    /// As [`Kernel::bind`] and [`AttentionPlan::cut`].
    pub fn bind_within(
        &self,
        device: &wgpu::Device,
        shape: &AttentionShape,
        bindings: &AttentionBindings<wgpu::BufferBinding<'_>>,
        budget: Budget,
    ) -> Result<Dispatch> {
        let recipe = self.plan.recipe_within(shape, bindings, budget)?;
        Dispatch::new(device, &self.plan.capabilities, &self.stages, &recipe)
    }
}

impl Kernel<AttentionBackwardPlan> {
    /// [`Kernel::bind`] for a call whose large passes are cut between workgroups into dispatches of
    /// at most `budget` each, at least [`AttentionBackwardPlan::least_budget`]. Every budget gives
    /// the same bits.
    ///
    /// # Errors
    /// As [`Kernel::bind`], and [`Error::Invalid`] for a budget that is too small.
    pub fn bind_within(
        &self,
        device: &wgpu::Device,
        shape: &AttentionShape,
        bindings: &AttentionBackwardBindings<wgpu::BufferBinding<'_>>,
        budget: Budget,
    ) -> Result<Dispatch> {
        let recipe = self.plan.recipe_within(shape, bindings, budget)?;
        Dispatch::new(device, &self.plan.capabilities, &self.stages, &recipe)
    }
}
