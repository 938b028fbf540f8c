//! Compiles a [`Shader`] on a device.

use std::borrow::Cow;
use std::sync::Arc;

use super::uniform_buffer;
use crate::Result;
use crate::plan::Shader;

/// A compute pipeline, the layout of its one bind group, and what it was compiled from.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) shader: Arc<Shader>,
}

impl Pipeline {
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the device is lost or out of memory.
    pub(crate) fn new(device: &wgpu::Device, shader: &Shader) -> Result<Self> {
        // wgpu takes the layout of a lost device's pipeline for a mistake of the caller's: asked
        // for a buffer first, it says what is wrong.
        uniform_buffer(device, "a kernel", &[0; 16])?;
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
            cache: None,
        });
        let layout = pipeline.get_bind_group_layout(0);
        Ok(Self { pipeline, layout, shader: Arc::new(shader.clone()) })
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
