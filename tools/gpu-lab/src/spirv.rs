//! WGSL to SPIR-V with the options that wgpu 30 uses on Vulkan (wgpu-hal, `src/vulkan/adapter.rs`
//! and `src/vulkan/device.rs`), so that a driver sees here what it sees in a program.

use anyhow::{Result, anyhow};
use naga::back::spv::{Options, PipelineOptions, ZeroInitializeWorkgroupMemoryMode, write_vec};
use naga::back::{PipelineConstants, pipeline_constants::process_overrides};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use phasor::shader::Shader;

/// `robust_buffers`: the device has `robustBufferAccess2`, and wgpu leaves the bounds of buffers to
/// it. `unchecked`: indices, buffers and loops as they are written, as wgpu has them in modules
/// that its caller vouches for.
pub fn compile(shader: &Shader, robust_buffers: bool, unchecked: bool) -> Result<Vec<u32>> {
    let source = &shader.source;
    let module = naga::front::wgsl::parse_str(source)
        .map_err(|e| anyhow!("{}", e.emit_to_string(source)))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| anyhow!("{}", e.emit_to_string(source)))?;
    // What the pipeline asks for reaches a module with overrides alone: others are written when the
    // module is made, before a pipeline exists (`create_shader_module` in wgpu-hal).
    let heeded = !module.overrides.is_empty();
    let zeroed = !heeded || Shader::WISHES.zero_initialize_workgroup_memory;
    let values: PipelineConstants =
        shader.overrides.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, shader.entry));
    let (module, info) = process_overrides(&module, &info, entry, &values)?;
    let options = Options {
        lang_version: (1, 6),
        flags: naga::back::spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: match unchecked {
                true => BoundsCheckPolicy::Unchecked,
                false => BoundsCheckPolicy::Restrict,
            },
            buffer: match robust_buffers || unchecked {
                true => BoundsCheckPolicy::Unchecked,
                false => BoundsCheckPolicy::Restrict,
            },
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: match zeroed {
            true => ZeroInitializeWorkgroupMemoryMode::Native,
            false => ZeroInitializeWorkgroupMemoryMode::None,
        },
        force_loop_bounding: !unchecked && (!heeded || Shader::WISHES.bound_loops),
        ..Options::default()
    };
    let pipeline = PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: shader.entry.into(),
    };
    let words = write_vec(&module, &info, &options, Some(&pipeline))?;
    Ok(words)
}
