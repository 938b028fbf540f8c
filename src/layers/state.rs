//! A model's attention on a device.

use crate::gpu::{CacheBindings, Compiler, CosSin, Dispatch};
use crate::layers::calls::{Bound, Site};
use crate::layers::compile::{LayerKernels, kernels};
use crate::layers::memory::Memory;
use crate::layers::sequences::{Active, Pending, Sequence, Sequences};
use crate::layers::step::Group;
use crate::layers::{Layer, LayerBindings, ManyKernel, ModelPlan};
use crate::plan::Budget;
use crate::plan::attention::AttentionShape;
use crate::{Capabilities, Error, Result};

/// The attention of a model: kernels, tables, caches and lengths on the caller's device, and the
/// sequences in them. See the [module](crate::layers).
///
/// It never submits, polls, maps or blocks. A call that is refused leaves sequences, buffers and
/// encoder as they were.
#[derive(Debug)]
pub struct Layers {
    pub(super) device: wgpu::Device,
    pub(super) plan: ModelPlan,
    pub(super) caps: Capabilities,
    /// Of each kind of layer.
    kernels: Vec<LayerKernels>,
    pub(super) memory: Memory,
    /// What the host bound to each layer.
    pub(super) bound: Vec<Option<Bound>>,
    pub(super) budget: Budget,
    pub(super) sequences: Sequences,
    pub(super) sets: Vec<Set>,
    pub(super) step: Step,
    pub(super) scratch: Scratch,
}

/// The calls of all layers for steps of one shape.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) groups: Vec<Group>,
    pub(super) calls: Vec<Dispatch>,
    /// The step that used it last.
    pub(super) used: u64,
}

/// The step that was begun last.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Counts steps.
    pub(super) number: u64,
    /// Place of its calls among the sets.
    pub(super) set: usize,
    /// What has to move first, and its calls in each layer.
    pub(super) moving: Vec<Pending>,
    pub(super) moves: Vec<Dispatch>,
    /// Which layers are encoded, and how many are not.
    pub(super) encoded: Vec<bool>,
    pub(super) open: usize,
    /// Rows of its sequences before it.
    pub(super) before: Vec<(Sequence, u32)>,
}

/// Host memory that steps use again.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) active: Vec<Active>,
    pub(super) groups: Vec<Group>,
    pub(super) lengths: Vec<u32>,
    pub(super) tables: Vec<u32>,
    /// The version and the sequences that the block tables were written for last.
    pub(super) written: (u64, Vec<Active>),
}

impl Layers {
    /// Compiles the kernels of a plan, several at once where there are cores, and allocates what
    /// [`ModelPlan::bytes`] says; on a device, or through a [`Compiler`] with a pipeline cache.
    ///
    /// # Errors
    /// [`Error::Limit`] where the device has less room than the plan was made for,
    /// [`Error::Device`] when it is lost, [`Error::Invalid`] for a rotary embedding out of range.
    /// Where memory runs out, wgpu tells the device's error scope or handler.
    pub fn new<'a>(compiler: impl Into<Compiler<'a>>, plan: &ModelPlan) -> Result<Self> {
        let compiler = compiler.into();
        let device = compiler.device();
        let layers = plan.model().layers.len();
        let most = plan.model().sequences as usize;
        let words = |bytes: u64| vec![0; bytes.div_ceil(4) as usize];
        Ok(Self {
            device: device.clone(),
            caps: Capabilities::of(device),
            kernels: kernels(compiler, plan.kinds().0)?,
            memory: Memory::new(device, plan)?,
            bound: (0..layers).map(|_| None).collect(),
            budget: Budget::UNLIMITED,
            sequences: Sequences::new(plan),
            sets: Vec::new(),
            step: Step {
                encoded: vec![true; layers],
                before: Vec::with_capacity(most),
                ..Step::default()
            },
            scratch: Scratch {
                active: Vec::with_capacity(most),
                groups: Vec::with_capacity(most),
                lengths: words(plan.length_bytes()),
                tables: words(plan.table_bytes()),
                written: (0, Vec::with_capacity(most)),
            },
            plan: plan.clone(),
        })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &ModelPlan {
        &self.plan
    }

    pub(super) fn unknown(&self, layer: usize) -> Error {
        Error::UnknownLayer { layer, layers: self.bound.len() }
    }

    /// The compiled kernels of a layer.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], here and below.
    pub fn kernels(&self, layer: usize) -> Result<&LayerKernels> {
        let kind = self.plan.kinds().1.get(layer);
        kind.and_then(|&kind| self.kernels.get(kind)).ok_or_else(|| self.unknown(layer))
    }

    /// The cache of a layer with all of its sequences or pages. The block table of a paged cache is
    /// that of the last step: a row of entries for each of its sequences with new rows, rows of
    /// different numbers of sequences apart as the device's alignment asks.
    ///
    /// # Errors
    /// As [`Layers::kernels`].
    pub fn cache(&self, layer: usize) -> Result<CacheBindings<'_>> {
        let table = self.memory.block_table(&self.plan, 0, self.plan.table_bytes());
        let all = [0, self.plan.model().sequences];
        self.memory.cache(&self.plan, layer, all, table)
    }

    /// The cos/sin table of a layer; `None` for one without rotary embedding.
    ///
    /// # Errors
    /// As [`Layers::kernels`].
    pub fn table(&self, layer: usize) -> Result<Option<CosSin<'_>>> {
        if layer < self.bound.len() {
            Ok(self.memory.table(layer))
        } else {
            Err(self.unknown(layer))
        }
    }

    /// Binds the host's tensors to a layer, from the next step on. Do it once: steps of a shape
    /// that was there before bind nothing.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`]; [`Error::Order`] between the beginning of a step and its last
    /// layer; any of [`Error`]'s variants on shapes, strides, sizes, alignment, overlap, usage,
    /// dtypes.
    pub fn bind(&mut self, layer: usize, bindings: &LayerBindings<'_>) -> Result<()> {
        let model = self.plan.model();
        let of: &Layer = model.layers.get(layer).ok_or_else(|| self.unknown(layer))?;
        self.between_steps()?;
        let bound = Bound::new(&self.caps, model, of, bindings)?;
        self.bound[layer] = Some(bound);
        self.sets.clear();
        Ok(())
    }

    /// [`Layers::bind`] for a fused projection's rows and an output projection's, as
    /// [`LayerBindings::packed`] has them.
    ///
    /// # Errors
    /// As [`Layers::bind`].
    pub fn bind_packed(
        &mut self,
        layer: usize,
        qkv: wgpu::BufferBinding<'_>,
        out: wgpu::BufferBinding<'_>,
    ) -> Result<()> {
        let model = self.plan.model();
        let of = model.layers.get(layer).ok_or_else(|| self.unknown(layer))?;
        self.bind(layer, &LayerBindings::packed(model, of, qkv, out)?)
    }

    /// The most that a dispatch of prefill computes from now on, so that no watchdog is woken: a
    /// call becomes several dispatches, which [`Layers::parts`] gives one at a time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a budget below one workgroup's work
    /// ([`AttentionPlan::least_budget`](crate::attention::AttentionPlan::least_budget)) for the
    /// longest step; [`Error::Order`] between the beginning of a step and its last layer.
    pub fn set_budget(&mut self, budget: Budget) -> Result<()> {
        self.between_steps()?;
        if budget < self.least_budget() {
            return Err(Error::Invalid {
                what: "budget",
                needed: "at least Layers::least_budget",
                got: format!("{} FLOP of {}", budget.limit(), self.least_budget().limit()),
            });
        }
        self.budget = budget;
        self.sets.clear();
        Ok(())
    }

    /// The smallest budget that can be kept.
    pub fn least_budget(&self) -> Budget {
        let rows = self.plan.model().max_rows.min(self.plan.capacity());
        let shape = AttentionShape::new(1, rows, self.plan.capacity());
        let all = self.kernels.iter().map(|kernels| match &kernels.many {
            Some(ManyKernel::Prefill(prefill)) => prefill.plan().least_budget(&shape),
            _ => Budget::flops(0),
        });
        all.max().unwrap_or(Budget::flops(0))
    }

    pub(super) fn site(&self, layer: usize) -> Result<Site<'_>> {
        Ok(Site {
            device: &self.device,
            plan: &self.plan,
            memory: &self.memory,
            layer,
            kernels: self.kernels(layer)?,
            budget: self.budget,
        })
    }

    /// Refuses what may not happen in the middle of a step.
    pub(super) fn between_steps(&self) -> Result<()> {
        match self.step.encoded.iter().position(|encoded| !encoded) {
            None => Ok(()),
            Some(layer) => {
                let why = "is not encoded in this step yet: encode it, or abandon the step";
                Err(Error::Order { layer, why })
            }
        }
    }
}
