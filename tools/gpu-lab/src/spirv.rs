//! WGSL to SPIR-V with the options that wgpu 30 uses on Vulkan (wgpu-hal, `src/vulkan/adapter.rs`
//! and `src/vulkan/device.rs`), so that a driver sees here what it sees in a program.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use naga::AddressSpace;
use naga::back::spv::{Options, PipelineOptions, ZeroInitializeWorkgroupMemoryMode, write_vec};
use naga::back::{PipelineConstants, pipeline_constants::process_overrides};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use phasor::shader::Shader;

/// A module for a driver.
pub struct Spirv {
    pub words: Vec<u32>,
    /// Binding numbers of group 0, and whether the buffer there is a uniform one.
    pub bindings: BTreeMap<u32, bool>,
}

/// `robust_buffers`: the device has `robustBufferAccess2`, and wgpu leaves the bounds of buffers to
/// it.
pub fn compile(shader: &Shader, robust_buffers: bool) -> Result<Spirv> {
    let source = &shader.source;
    let module = naga::front::wgsl::parse_str(source)
        .map_err(|e| anyhow!("{}", e.emit_to_string(source)))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| anyhow!("{}", e.emit_to_string(source)))?;
    // What the pipeline asks for reaches a module with overrides alone: others are written when the
    // module is made, before a pipeline exists (`create_shader_module` in wgpu-hal).
    let heeded = !module.overrides.is_empty();
    let values: PipelineConstants =
        shader.overrides.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, shader.entry));
    let (module, info) = process_overrides(&module, &info, entry, &values)?;
    let options = Options {
        lang_version: (1, 6),
        flags: naga::back::spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Restrict,
            buffer: match robust_buffers {
                true => BoundsCheckPolicy::Unchecked,
                false => BoundsCheckPolicy::Restrict,
            },
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: match heeded {
            true => ZeroInitializeWorkgroupMemoryMode::None,
            false => ZeroInitializeWorkgroupMemoryMode::Native,
        },
        force_loop_bounding: !heeded,
        ..Options::default()
    };
    let pipeline = PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: shader.entry.into(),
    };
    let words = write_vec(&module, &info, &options, Some(&pipeline))?;
    let used = info.get_entry_point(0);
    let bindings = module
        .global_variables
        .iter()
        .filter(|&(handle, _)| !used[handle].is_empty())
        .filter_map(|(_, global)| {
            let binding = global.binding.as_ref()?;
            Some((binding.binding, global.space == AddressSpace::Uniform))
        })
        .collect();
    Ok(Spirv { words, bindings })
}
