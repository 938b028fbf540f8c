//! A call that is ready to be recorded.

use std::sync::Arc;

use super::owned::Pieces;
use super::pipeline::Stage;
use crate::call::{self, Recipe, Resource};
use crate::plan::{Capabilities, Shader};
use crate::{Error, Result};

/// A checked and bound call: record it as often as you like. It holds its pipeline, bind group and
/// parameters, and clones cheaply. Recording allocates nothing of this crate's own and cannot fail.
#[derive(Debug, Clone)]
pub struct Dispatch {
    // In order, each seeing what the ones before it wrote. Empty: the call's output is empty, and
    // there is nothing to run.
    work: Vec<Work>,
}

#[derive(Debug, Clone)]
struct Work {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    shader: Arc<Shader>,
    workgroups: [u32; 2],
    bindings: Vec<BoundBuffer>,
    flops: Option<u64>,
    own: Arc<Own>,
}

/// Buffers of a call's own, and what they hold. Parameters are uniforms and data is storage, which
/// in one buffer would be two uses at once.
#[derive(Debug, Default)]
struct Own {
    params: Pieces,
    params_buffer: Option<wgpu::Buffer>,
    data: Pieces,
    data_buffer: Option<wgpu::Buffer>,
}

/// One binding of a [`Part`], in group 0.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BoundBuffer {
    /// `@binding` of the shader.
    pub binding: u32,
    /// The buffer, shared with whoever made it.
    pub buffer: wgpu::Buffer,
    /// First byte that is bound.
    pub offset: u64,
    /// Bytes that are bound; `None` for all to the end of the buffer.
    pub size: Option<u64>,
}

impl Dispatch {
    /// What `recipe` says, with the stages of its kernel.
    pub(super) fn new(
        device: &wgpu::Device,
        caps: &Capabilities,
        stages: &[Stage],
        recipe: &Recipe<wgpu::BufferBinding<'_>>,
    ) -> Result<Self> {
        let mut own = Own::default();
        let mut at = Vec::with_capacity(16 * recipe.steps.len());
        for entry in recipe.steps.iter().flat_map(|step| &step.entries) {
            at.push(match &entry.resource {
                Resource::Params(bytes) => own.params.add(bytes, caps.uniform_alignment),
                Resource::Data(bytes) => own.data.add(bytes, caps.storage_alignment),
                Resource::Caller(_) | Resource::Table | Resource::Unused => (0, 0),
            });
        }
        let label = stages.first().map_or("a call", |stage| stage.shader.entry);
        own.params_buffer = own.params.upload(device, label)?;
        own.data_buffer = own.data.upload(device, label)?;
        let (own, mut at) = (Arc::new(own), &at[..]);
        let mut work = Vec::with_capacity(recipe.steps.len());
        for step in &recipe.steps {
            let (here, rest) = at.split_at(step.entries.len());
            at = rest;
            let stage = &stages[step.stage];
            let bindings: Vec<_> = step
                .entries
                .iter()
                .zip(here)
                .filter_map(|(entry, at)| Some((entry.binding, own.range(stage, entry, *at)?)))
                .collect();
            work.push(Work::new(device, stage, step, &bindings, &own));
        }
        Ok(Self { work })
    }

    /// Several calls as one, in order.
    pub(crate) fn sequence(calls: impl IntoIterator<Item = Self>) -> Self {
        Self { work: calls.into_iter().flat_map(|call| call.work).collect() }
    }

    /// Puts the buffers of `recipe` in the place of those that are bound.
    ///
    /// # Errors
    /// [`Error::Rebind`] where more differs than buffers and where in them the ranges lie.
    pub(super) fn rebind(
        &mut self,
        device: &wgpu::Device,
        stages: &[Stage],
        recipe: &Recipe<wgpu::BufferBinding<'_>>,
    ) -> Result<()> {
        if self.work.len() != recipe.steps.len() {
            return Err(Error::Rebind { what: "the number of dispatches" });
        }
        // Nothing changes before all of it is known to fit.
        for (work, step) in self.work.iter().zip(&recipe.steps) {
            work.own.check_same(work, &stages[step.stage], step)?;
        }
        for (work, step) in self.work.iter_mut().zip(&recipe.steps) {
            work.rebind(device, &stages[step.stage], step);
        }
        Ok(())
    }

    /// Records the call into the caller's compute pass. Group 0 and the pipeline of the pass are
    /// set and not restored.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        for part in self.parts() {
            part.record(pass);
        }
    }

    /// Records the call into a compute pass of its own.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        if !self.work.is_empty() {
            self.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        }
    }

    /// The dispatches that the call consists of, to be recorded in this order, each once: one, or
    /// the passes of a kernel that has several, or as many as a [budget](crate::Budget) asked for.
    /// Parts may lie in different passes and submissions, with other work between them, so that a
    /// watchdog or a user interface never waits for the whole call. The outputs are complete after
    /// the last one; until then inputs, outputs and workspace must stay as the parts left them.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = Part<'_>> {
        self.work.iter().map(|work| Part { work })
    }

    /// Whether there is anything to run: false for a call whose output has no elements.
    pub fn is_empty(&self) -> bool {
        self.work.is_empty()
    }
}

/// One dispatch of a call.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    work: &'a Work,
}

impl<'a> Part<'a> {
    /// What it runs, with the entry point and the values of the overrides.
    pub fn shader(&self) -> &'a Shader {
        &self.work.shader
    }

    /// Workgroups along x and y; there is 1 along z.
    pub fn workgroups(&self) -> [u32; 2] {
        self.work.workgroups
    }

    /// What is bound, this crate's own small buffers included; those can be copied from.
    pub fn bindings(&self) -> &'a [BoundBuffer] {
        &self.work.bindings
    }

    /// Records the part into the caller's compute pass, as [`Dispatch::record`] does the whole.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let work = self.work;
        pass.set_pipeline(&work.pipeline);
        pass.set_bind_group(0, &work.bind_group, &[]);
        let [x, y] = work.workgroups;
        pass.dispatch_workgroups(x, y, 1);
    }

    /// Records the part into a compute pass of its own.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        self.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
    }

    /// Floating-point operations that it executes, as [`CutPart`](crate::attention::CutPart) has
    /// them. `None` of kernels that take no budget.
    pub fn flops(&self) -> Option<u64> {
        self.work.flops
    }
}

impl Own {
    /// What an entry binds; `None` where the stage has no such thing.
    fn range<'a>(
        &'a self,
        stage: &'a Stage,
        entry: &call::Entry<wgpu::BufferBinding<'a>>,
        (offset, size): (u64, u64),
    ) -> Option<wgpu::BufferBinding<'a>> {
        let size = wgpu::BufferSize::new(size);
        let own = |buffer: &'a Option<wgpu::Buffer>| {
            buffer.as_ref().map(|buffer| wgpu::BufferBinding { buffer, offset, size })
        };
        match &entry.resource {
            Resource::Caller(range) => Some(range.clone()),
            Resource::Params(_) => own(&self.params_buffer),
            Resource::Data(_) => own(&self.data_buffer),
            Resource::Table => stage.table.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            Resource::Unused => Some(stage.unused(entry.binding)),
        }
    }

    /// Refuses a step that differs from what is bound in more than the caller's ranges.
    fn check_same(
        &self,
        work: &Work,
        stage: &Stage,
        step: &call::Step<wgpu::BufferBinding<'_>>,
    ) -> Result<()> {
        let bound = &work.bindings;
        if !Arc::ptr_eq(&work.shader, &stage.shader) {
            return Err(Error::Rebind { what: "the kernel" });
        }
        if work.workgroups != step.workgroups || bound.len() != step.entries.len() {
            return Err(Error::Rebind { what: "sizes, or which tensors there are," });
        }
        for (bound, entry) in bound.iter().zip(&step.entries) {
            let at = (bound.offset, bound.size.unwrap_or(0));
            let same = bound.binding == entry.binding
                && match &entry.resource {
                    Resource::Params(bytes) => self.params.is_at(at, bytes),
                    Resource::Data(bytes) => self.data.is_at(at, bytes),
                    // A range that the call had not, or has no longer, shows in the parameters.
                    Resource::Caller(_) | Resource::Table | Resource::Unused => true,
                };
            if !same {
                return Err(Error::Rebind { what: "sizes, layouts or positions" });
            }
        }
        Ok(())
    }
}

impl Work {
    fn new(
        device: &wgpu::Device,
        stage: &Stage,
        step: &call::Step<wgpu::BufferBinding<'_>>,
        ranges: &[(u32, wgpu::BufferBinding<'_>)],
        own: &Arc<Own>,
    ) -> Self {
        let bindings = ranges.iter().map(|(binding, range)| BoundBuffer {
            binding: *binding,
            buffer: range.buffer.clone(),
            offset: range.offset,
            size: range.size.map(u64::from),
        });
        let bindings: Vec<_> = bindings.collect();
        Self {
            pipeline: stage.pipeline.clone(),
            bind_group: bind_group(device, stage, &bindings),
            shader: stage.shader.clone(),
            workgroups: step.workgroups,
            bindings,
            flops: step.flops,
            own: own.clone(),
        }
    }

    fn rebind(
        &mut self,
        device: &wgpu::Device,
        stage: &Stage,
        step: &call::Step<wgpu::BufferBinding<'_>>,
    ) {
        for (bound, entry) in self.bindings.iter_mut().zip(&step.entries) {
            let range = match &entry.resource {
                Resource::Caller(range) => range.clone(),
                Resource::Unused => stage.unused(entry.binding),
                Resource::Params(_) | Resource::Data(_) | Resource::Table => continue,
            };
            bound.buffer = range.buffer.clone();
            (bound.offset, bound.size) = (range.offset, range.size.map(u64::from));
        }
        self.bind_group = bind_group(device, stage, &self.bindings);
    }
}

fn bind_group(device: &wgpu::Device, stage: &Stage, bound: &[BoundBuffer]) -> wgpu::BindGroup {
    let entries: Vec<_> = bound
        .iter()
        .map(|bound| wgpu::BindGroupEntry {
            binding: bound.binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &bound.buffer,
                offset: bound.offset,
                size: bound.size.and_then(wgpu::BufferSize::new),
            }),
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(stage.shader.entry),
        layout: &stage.layout,
        entries: &entries,
    })
}
