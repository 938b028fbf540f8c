//! Translation to what the backends take, with the options that wgpu gives its backends for this
//! crate's modules: bounds checks, no loop bounding, workgroup memory not zeroed.

use naga::back::{glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::{AddressSpace, ShaderStage, StorageAccess};

use crate::compiled::Compiled;

fn checked(index: BoundsCheckPolicy, buffer: BoundsCheckPolicy) -> BoundsCheckPolicies {
    BoundsCheckPolicies {
        index,
        buffer,
        image_load: BoundsCheckPolicy::Unchecked,
        binding_array: BoundsCheckPolicy::Unchecked,
    }
}

/// SPIR-V of a version. Where the device checks buffers itself (`robust_buffers`), naga does not.
pub fn spirv(
    compiled: &Compiled,
    version: (u8, u8),
    robust_buffers: bool,
) -> Result<Vec<u32>, String> {
    let buffer =
        if robust_buffers { BoundsCheckPolicy::Unchecked } else { BoundsCheckPolicy::Restrict };
    // Subgroups came with SPIR-V 1.3, and no older one has matrices.
    let least = if compiled.subgroup || compiled.matrices { (1, 3) } else { (1, 0) };
    let lang_version = version.max(least);
    let subgroup = [
        spv::Capability::GroupNonUniform,
        spv::Capability::GroupNonUniformVote,
        spv::Capability::GroupNonUniformShuffle,
    ];
    let matrices = [
        spv::Capability::CooperativeMatrixKHR,
        spv::Capability::VulkanMemoryModel,
        spv::Capability::Float16,
    ];
    let mut claimed = vec![spv::Capability::Shader];
    claimed.extend(subgroup.into_iter().filter(|_| compiled.subgroup));
    claimed.extend(matrices.into_iter().filter(|_| compiled.matrices));
    let options = spv::Options {
        lang_version,
        flags: spv::WriterFlags::empty(),
        capabilities: Some(claimed.into_iter().collect()),
        bounds_check_policies: checked(BoundsCheckPolicy::Restrict, buffer),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ..Default::default()
    };
    let entry = &compiled.entry_point().0.name;
    let pipeline =
        spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.clone() };
    spv::write_vec(&compiled.module, &compiled.info, &options, Some(&pipeline))
        .map_err(|e| e.to_string())
}

/// Metal's language, every buffer in a slot of its own and their sizes in the last. Matrices came
/// with 2.3.
pub fn msl(compiled: &Compiled, version: (u8, u8)) -> Result<String, String> {
    let version = if compiled.matrices { version.max((2, 3)) } else { version };
    let entry = compiled.entry_point().0.name.clone();
    let mut resources = msl::EntryPointResources::default();
    for (slot, (binding, space)) in (0u8..).zip(compiled.bound()) {
        let mutable = matches!(
            space,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE)
        );
        let target = msl::BindTarget { buffer: Some(slot), mutable, ..Default::default() };
        resources.resources.insert(binding, target);
    }
    resources.sizes_buffer = Some(resources.resources.len() as u8);
    let options = msl::Options {
        lang_version: version,
        per_entry_point_map: [(entry.clone(), resources)].into_iter().collect(),
        spirv_cross_compatibility: false,
        fake_missing_bindings: false,
        bounds_check_policies: checked(BoundsCheckPolicy::Restrict, BoundsCheckPolicy::Restrict),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry)),
        ..Default::default()
    };
    let (text, info) = msl::write_string(&compiled.module, &compiled.info, &options, &pipeline)
        .map_err(|e| e.to_string())?;
    match &info.entry_point_names[..] {
        [Ok(_)] => Ok(text),
        other => Err(format!("entry points {other:?}")),
    }
}

/// Direct3D's language, a register for every buffer.
pub fn hlsl(compiled: &Compiled, shader_model: hlsl::ShaderModel) -> Result<String, String> {
    let mut options = hlsl::Options {
        shader_model,
        fake_missing_bindings: false,
        zero_initialize_workgroup_memory: false,
        restrict_indexing: true,
        force_loop_bounding: false,
        ..Default::default()
    };
    let mut registers = [0; 3];
    for (binding, space) in compiled.bound() {
        // Constant buffers, read-only views and read-write views count apart.
        let kind = match space {
            AddressSpace::Uniform => 0,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => 2,
            _ => 1,
        };
        let target = hlsl::BindTarget {
            register: registers[kind],
            restrict_indexing: true,
            ..Default::default()
        };
        registers[kind] += 1;
        options.binding_map.insert(binding, target);
    }
    let entry = compiled.entry_point().0.name.clone();
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry)) };
    let mut text = String::new();
    let info = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&compiled.module, &compiled.info, None)
        .map_err(|e| e.to_string())?;
    match &info.entry_point_names[..] {
        [Ok(_)] => Ok(text),
        other => Err(format!("entry points {other:?}")),
    }
}

/// OpenGL ES, uniform and storage blocks numbered apart.
pub fn glsl(compiled: &Compiled, version: u16) -> Result<String, String> {
    let mut slots = [0u8; 2];
    let mut binding_map = glsl::BindingMap::default();
    for (binding, space) in compiled.bound() {
        let slot = &mut slots[usize::from(space != AddressSpace::Uniform)];
        binding_map.insert(binding, *slot);
        *slot += 1;
    }
    let options = glsl::Options {
        version: glsl::Version::new_gles(version),
        writer_flags: glsl::WriterFlags::ADJUST_COORDINATE_SPACE
            | glsl::WriterFlags::FORCE_POINT_SIZE,
        binding_map,
        zero_initialize_workgroup_memory: false,
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: compiled.entry_point().0.name.clone(),
        multiview: None,
    };
    let policies = checked(BoundsCheckPolicy::Unchecked, BoundsCheckPolicy::Unchecked);
    let mut text = String::new();
    glsl::Writer::new(&mut text, &compiled.module, &compiled.info, &options, &pipeline, policies)
        .and_then(|mut writer| writer.write())
        .map_err(|e| e.to_string())?;
    Ok(text)
}
