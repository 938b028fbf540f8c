//! Reads [`Capabilities`] off a device.

use crate::plan::{Capabilities, Sharing};

impl Capabilities {
    /// What `device` offers: the limits and features it was created with, not all that its
    /// adapter could do.
    pub fn of(device: &wgpu::Device) -> Self {
        let limits = device.limits();
        let info = device.adapter_info();
        let subgroup = device.features().contains(wgpu::Features::SUBGROUP);
        Self {
            adapter: format!(
                "{} ({:?}, {} {})",
                info.name, info.backend, info.driver, info.driver_info
            ),
            software: info.device_type == wgpu::DeviceType::Cpu,
            vendor: info.vendor,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroup_size: limits.max_compute_workgroup_size_x,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_storage_binding: limits.max_storage_buffer_binding_size,
            max_uniform_binding: limits.max_uniform_buffer_binding_size,
            storage_alignment: limits.min_storage_buffer_offset_alignment,
            uniform_alignment: limits.min_uniform_buffer_offset_alignment,
            subgroup: subgroup.then_some((info.subgroup_min_size, info.subgroup_max_size)),
            quarantined: Vec::new(),
            sharing: Sharing::Apart,
        }
    }
}
