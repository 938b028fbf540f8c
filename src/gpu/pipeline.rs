//! Compiles a [`Shader`] on a device.

use std::borrow::Cow;
use std::sync::Arc;

use super::Call;
use super::dispatch::Unused;
use crate::Result;
use crate::plan::{Capabilities, Shader};

/// What compiles kernels: a device, and wgpu's pipeline cache where the caller keeps one.
///
/// A device alone will do: `Attention::new(&device, &plan)`. With a cache, a program that runs for the
/// second time gets its pipelines from what the first left, on backends that have such a thing
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

/// A compute pipeline, the layout of its one bind group, and what it was compiled from.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) shader: Arc<Shader>,
    pub(super) unused: Unused,
}

impl Pipeline {
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the device is lost or out of memory.
    pub(crate) fn new(compiler: Compiler<'_>, shader: &Shader) -> Result<Self> {
        let device = compiler.device;
        // Before the pipeline: wgpu takes the layout of a lost device's pipeline for a mistake of the
        // caller's, and asked for a buffer first, it says what is wrong.
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
                // Every kernel writes workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: compiler.cache,
        });
        let layout = pipeline.get_bind_group_layout(0);
        Ok(Self { pipeline, layout, shader: Arc::new(shader.clone()), unused })
    }

    /// A dispatch of it, to be given its bindings.
    pub(crate) fn call(&self) -> Call<'_> {
        Call::new(self)
    }
}

#[expect(unsafe_code, reason = "loop bounding off; obligation and figures stated at the call")]
fn module(device: &wgpu::Device, shader: &Shader) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(&shader.label),
        source: wgpu::ShaderSource::Wgsl(Cow::Borrowed(&shader.source)),
    };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: without the bound that naga adds to loops, a loop that never ends is undefined
    // behaviour. Every loop of this crate's shaders counts a u32 up to a bound that is a constant
    // or read from the call's parameters before the loop, by a constant step. Bounds checks on
    // memory stay on.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}
