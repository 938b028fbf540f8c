//! Reads [`Capabilities`] off a device.

use crate::plan::{Capabilities, Matrices, MatrixSide, Sharing, Trust};

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
            matrices: match device.features().contains(Self::MATRIX_FEATURES) {
                true => Matrices::Unlisted,
                false => Matrices::Off,
            },
            probed: Vec::new(),
            quarantined: Vec::new(),
            sharing: Sharing::Apart,
        }
    }
    /// What a device has to be created with for [`Precision::F16Products`](crate::Precision); wgpu
    /// asks for `experimental_features: unsafe { ExperimentalFeatures::enabled() }` beside them.
    pub const MATRIX_FEATURES: wgpu::Features =
        wgpu::Features::SHADER_F16.union(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);

    /// The same, with the matrix shapes that the adapter of the device lists. They are used where a
    /// problem asks for them, once a self-test has passed.
    #[must_use]
    pub fn with_adapter(self, adapter: &wgpu::Adapter) -> Self {
        if self.matrices == Matrices::Off {
            return self;
        }
        let info = adapter.get_info();
        let sides = adapter.cooperative_matrix_properties();
        let sides = sides.into_iter().filter_map(|shape| {
            let types = (shape.ab_type, shape.cr_type);
            let square = shape.m_size == shape.n_size && shape.n_size == shape.k_size;
            let f16 = wgpu::CooperativeScalarType::F16;
            match (square && types == (f16, wgpu::CooperativeScalarType::F32), shape.m_size) {
                (true, 16) => Some(MatrixSide::M16),
                (true, 8) => Some(MatrixSide::M8),
                _ => None,
            }
        });
        let lanes = info.subgroup_max_size;
        let matrices = match sides.max() {
            Some(side) => Matrices::Listed { side, lanes, trust: trust(&info) },
            None => Matrices::Absent,
        };
        Self { matrices, ..self }
    }
}

/// Drivers whose matrix units have run kernels of this crate: see `docs/adapters.md`.
fn trust(info: &wgpu::AdapterInfo) -> Trust {
    match (info.backend, info.driver.as_str()) {
        (wgpu::Backend::Vulkan, "llvmpipe") => Trust::Known,
        _ => Trust::Unknown,
    }
}
