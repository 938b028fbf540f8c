//! Compiles a [`Shader`] on a device.

use std::borrow::Cow;
use std::sync::Arc;

use super::owned::{self, Unused};
use crate::Result;
use crate::plan::{BindingType, Capabilities, Declared, Shader};

/// What compiles kernels: a device, and wgpu's pipeline cache where the caller keeps one.
///
/// A device alone will do: `Attention::new(&device, &plan)`. With a cache, a program that runs for
/// the second time gets its pipelines from what the first left, on backends that have such a thing
/// (`Features::PIPELINE_CACHE`: Vulkan). Kernels may be compiled from several threads at once, with
/// one cache for all.
///
/// ```no_run
/// # use phasor::attention::{Attention, AttentionPlan};
/// # use phasor::{Compiler, Result, wgpu};
/// # fn f(device: &wgpu::Device, plan: &AttentionPlan, file: Option<Vec<u8>>) -> Result<()> {
/// let descriptor = wgpu::PipelineCacheDescriptor {
///     label: None,
///     data: file.as_deref(), // of the last run; wgpu::util::pipeline_cache_key names the file
///     fallback: true,
/// };
/// // SAFETY: the file is what `get_data` gave, written by this program alone.
/// let cache = unsafe { device.create_pipeline_cache(&descriptor) };
/// let kernel = Attention::new(Compiler::new(device).with_cache(&cache), plan)?;
/// let file = cache.get_data(); // keep it
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Compiler<'a> {
    device: &'a wgpu::Device,
    cache: Option<&'a wgpu::PipelineCache>,
}

impl<'a> Compiler<'a> {
    /// Compiles on `device`, without a cache.
    pub fn new(device: &'a wgpu::Device) -> Self {
        Self { device, cache: None }
    }

    /// Looks pipelines up in `cache`, which was made on the same device, and leaves new ones there.
    #[must_use]
    pub fn with_cache(self, cache: &'a wgpu::PipelineCache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    pub(crate) fn device(&self) -> &'a wgpu::Device {
        self.device
    }

    pub(super) fn cache(&self) -> Option<&'a wgpu::PipelineCache> {
        self.cache
    }

    /// What the device offers.
    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::of(self.device)
    }
}

impl<'a> From<&'a wgpu::Device> for Compiler<'a> {
    fn from(device: &'a wgpu::Device) -> Self {
        Self::new(device)
    }
}

/// One stage of a kernel: a compute pipeline, the layout of its one bind group, what it was
/// compiled from, and its table.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) shader: Arc<Shader>,
    pub(super) declared: Arc<[Declared]>,
    pub(super) unused: Unused,
    pub(super) table: Option<wgpu::Buffer>,
}

impl Stage {
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the device is lost or out of memory.
    pub(super) fn new(
        compiler: Compiler<'_>,
        shader: &Shader,
        table: Option<&[u8]>,
    ) -> Result<Self> {
        let device = compiler.device;
        // Before the pipeline: wgpu takes the layout of a lost device's pipeline for a mistake of
        // the caller's, and asked for a buffer first, it says what is wrong.
        let unused = Unused::new(device)?;
        let module = module(device, shader);
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&shader.label),
            // A bind group is never shared between pipelines, so the shader stays the single
            // source of truth for its layout.
            layout: None,
            module: &module,
            entry_point: Some(shader.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &shader.overrides,
                zero_initialize_workgroup_memory: Shader::WISHES.zero_initialize_workgroup_memory,
            },
            cache: compiler.cache,
        });
        let layout = pipeline.get_bind_group_layout(0);
        let (declared, shader) = (shader.bindings().into(), Arc::new(shader.clone()));
        let stage = Self { pipeline, layout, shader, declared, unused, table: None };
        stage.with_table(device, table)
    }

    /// What stands in for a binding that a call does not use.
    pub(super) fn unused(&self, binding: u32) -> wgpu::BufferBinding<'_> {
        let written = |one: &Declared| one.binding == binding && one.ty == BindingType::Storage;
        self.unused.binding(binding, self.declared.iter().any(written))
    }

    /// The same pipeline with another table.
    pub(super) fn with_table(self, device: &wgpu::Device, table: Option<&[u8]>) -> Result<Self> {
        let table = table.map(|table| owned::buffer(device, "a table", table)).transpose()?;
        Ok(Self { table, ..self })
    }
}

#[expect(unsafe_code, reason = "loop bounding off; obligation and figures stated at the call")]
fn module(device: &wgpu::Device, shader: &Shader) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(&shader.label),
        source: wgpu::ShaderSource::Wgsl(Cow::Borrowed(&shader.source)),
    };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: Shader::WISHES.bound_loops,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: without the bound that naga adds to loops, a loop that never ends is undefined
    // behaviour. Every loop of this crate's shaders counts a u32 up to a bound that is a constant
    // or read from the call's parameters before the loop, by a constant step. Bounds checks on
    // memory stay on.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}
