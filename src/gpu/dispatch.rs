//! A call that is ready to be recorded.

use std::sync::Arc;

use super::Call;
use crate::plan::Shader;
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
    step: Arc<Step>,
    flops: Option<u64>,
}

/// What one dispatch of a call runs: enough to run it by other means, in another implementation of
/// WebGPU for example. Every binding is of group 0.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Step {
    /// The shader, with its entry point and the values of its overrides.
    pub shader: Arc<Shader>,
    /// Workgroups along x and y; there is 1 along z.
    pub workgroups: [u32; 2],
    /// What is bound, this crate's own small parameter buffers included; those can be copied from.
    pub bindings: Vec<BoundBuffer>,
}

/// One binding of a [`Step`].
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
    /// A call that computes nothing, since its output has no elements.
    pub(crate) fn empty() -> Self {
        Self { work: Vec::new() }
    }

    pub(super) fn new(device: &wgpu::Device, call: &Call<'_>, workgroups: [u32; 2]) -> Self {
        let Call { pipeline, entries } = call;
        let bind_group_entries: Vec<_> = entries
            .iter()
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding: *binding,
                resource: wgpu::BindingResource::Buffer(buffer.clone()),
            })
            .collect();
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(pipeline.shader.entry),
            layout: &pipeline.layout,
            entries: &bind_group_entries,
        });
        let bindings = entries.iter().map(|(binding, bound)| BoundBuffer {
            binding: *binding,
            buffer: bound.buffer.clone(),
            offset: bound.offset,
            size: bound.size.map(u64::from),
        });
        let shader = pipeline.shader.clone();
        let step = Arc::new(Step { shader, workgroups, bindings: bindings.collect() });
        let pipeline = pipeline.pipeline.clone();
        Self { work: vec![Work { pipeline, bind_group, step, flops: None }] }
    }

    /// States the operations that a call of one dispatch executes.
    pub(crate) fn executing(mut self, flops: u64) -> Self {
        self.work.iter_mut().for_each(|work| work.flops = Some(flops));
        self
    }

    /// Passes of one call, in order.
    pub(crate) fn sequence(passes: impl IntoIterator<Item = Self>) -> Self {
        Self { work: passes.into_iter().flat_map(|pass| pass.work).collect() }
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

    /// The dispatches that the call consists of, to be recorded in this order, each once: one, or the
    /// passes of a kernel that has several, or as many as a [budget](crate::Budget) asked for.
    /// Parts may lie in different passes and submissions, with other work between them, so that a
    /// watchdog or a user interface never waits for the whole call. The outputs are complete after the
    /// last one; until then inputs, outputs and workspace must stay as the parts left them.
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
    /// What it runs, on what.
    pub fn step(&self) -> &'a Step {
        &self.work.step
    }

    /// Records the part into the caller's compute pass, as [`Dispatch::record`] does the whole.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let work = self.work;
        pass.set_pipeline(&work.pipeline);
        pass.set_bind_group(0, &work.bind_group, &[]);
        let [x, y] = work.step.workgroups;
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

/// Uniform blocks of one type behind each other, each at an offset that can be bound.
#[derive(Debug)]
pub(crate) struct UniformArray {
    buffer: wgpu::Buffer,
    pitch: u64,
    size: u64,
}

impl UniformArray {
    pub(crate) fn new<T: bytemuck::Pod>(
        device: &wgpu::Device,
        label: &'static str,
        alignment: u32,
        elements: &[T],
    ) -> Result<Self> {
        let pitch = size_of::<T>().next_multiple_of(alignment.max(1) as usize);
        let mut bytes = Vec::with_capacity(elements.len() * pitch);
        for element in elements {
            bytes.extend_from_slice(bytemuck::bytes_of(element));
            bytes.resize(bytes.len().next_multiple_of(pitch), 0);
        }
        let buffer = uniform_buffer(device, label, &bytes)?;
        Ok(Self { buffer, pitch: pitch as u64, size: size_of::<T>() as u64 })
    }

    pub(crate) fn element(&self, n: usize) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: n as u64 * self.pitch,
            size: wgpu::BufferSize::new(self.size),
        }
    }
}

/// The parameters of a call.
///
/// # Errors
/// As [`uniform_buffer`].
pub(crate) fn params_buffer<T: bytemuck::Pod>(
    device: &wgpu::Device,
    label: &'static str,
    params: &T,
) -> Result<wgpu::Buffer> {
    uniform_buffer(device, label, bytemuck::bytes_of(params))
}

/// A small uniform buffer with its contents in place. Each call has its own: one shared buffer
/// written through the queue would give two calls of one submission the same parameters.
///
/// # Errors
/// [`Error::Device`] where the device makes no buffer. (wgpu's `create_buffer_init` panics there.)
pub(crate) fn uniform_buffer(
    device: &wgpu::Device,
    label: &'static str,
    contents: &[u8],
) -> Result<wgpu::Buffer> {
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: (contents.len() as u64).next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT),
        // Copied from by those who look into a call, see `Step`.
        usage: wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    });
    {
        let mut mapped =
            buffer.get_mapped_range_mut(..).map_err(|_| Error::Device { what: label })?;
        mapped.slice(..contents.len()).copy_from_slice(contents);
    }
    buffer.unmap();
    Ok(buffer)
}

/// Stand-ins for the bindings that a shader declares and a call does not use. One to be read and
/// one to be written, since a buffer cannot be both within a dispatch.
#[derive(Debug, Clone)]
pub(super) struct Unused {
    read: wgpu::Buffer,
    written: wgpu::Buffer,
}

impl Unused {
    pub(super) fn new(device: &wgpu::Device) -> Result<Self> {
        let make = |label| uniform_buffer(device, label, &[0; 16]);
        Ok(Self { read: make("unused input")?, written: make("unused output")? })
    }

    pub(super) fn read(&self) -> wgpu::BufferBinding<'_> {
        self.read.as_entire_buffer_binding()
    }

    pub(super) fn written(&self) -> wgpu::BufferBinding<'_> {
        self.written.as_entire_buffer_binding()
    }
}
