//! What a device offers, as far as plans depend on it.

use super::Quarantine;
use crate::{Error, Result};

/// The limits and traits of a device that plans are made from. Take them from a device with
/// [`Capabilities::of`], or fill them in by hand to plan for a device that is not at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Adapter, backend and driver, for messages and reports only.
    pub adapter: String,
    /// Whether shaders run on the CPU (lavapipe, SwiftShader, llvmpipe, WARP). Such adapters want
    /// small workgroups and much work a thread.
    pub software: bool,
    /// PCI id of the vendor (0x10de is NVIDIA), 0 where the API does not say. Only tiles depend on it.
    pub vendor: u32,
    /// `max_compute_workgroup_storage_size`, in bytes.
    pub max_workgroup_bytes: u32,
    /// `max_compute_invocations_per_workgroup`.
    pub max_invocations: u32,
    /// `max_compute_workgroup_size_x`.
    pub max_workgroup_size: u32,
    /// `max_compute_workgroups_per_dimension`.
    pub max_workgroups: u32,
    /// `max_storage_buffers_per_shader_stage`.
    pub max_storage_buffers: u32,
    /// `max_storage_buffer_binding_size`, in bytes.
    pub max_storage_binding: u64,
    /// `max_uniform_buffer_binding_size`, in bytes.
    pub max_uniform_binding: u64,
    /// `min_storage_buffer_offset_alignment`, in bytes.
    pub storage_alignment: u32,
    /// `min_uniform_buffer_offset_alignment`, in bytes.
    pub uniform_alignment: u32,
    /// Smallest and largest subgroup, where the device was created with subgroup operations.
    pub subgroup: Option<(u32, u32)>,
    /// What plans leave out, since the device was seen to get it wrong: see
    /// [`selftest`](crate::selftest()) and [`Capabilities::without`].
    pub quarantined: Vec<Quarantine>,
}

impl Capabilities {
    /// The limits that every WebGPU implementation guarantees, without any optional feature.
    pub fn webgpu_default() -> Self {
        Self {
            adapter: "WebGPU default limits".into(),
            software: false,
            vendor: 0,
            max_workgroup_bytes: 16 << 10,
            max_invocations: 256,
            max_workgroup_size: 256,
            max_workgroups: 65535,
            max_storage_buffers: 8,
            max_storage_binding: 128 << 20,
            max_uniform_binding: 64 << 10,
            storage_alignment: 256,
            uniform_alignment: 256,
            subgroup: None,
            quarantined: Vec::new(),
        }
    }

    /// Refuses a need that passes a limit.
    pub(crate) fn need(
        limit: &'static str,
        what: &'static str,
        needed: u64,
        available: u64,
    ) -> Result<()> {
        if needed > available {
            return Err(Error::Limit { limit, what, needed, available });
        }
        Ok(())
    }

    /// Refuses a device without subgroups of exactly this size.
    pub(crate) fn need_subgroup(&self, what: &'static str, size: u32) -> Result<()> {
        match self.subgroup {
            Some(sizes) if sizes == (size, size) => Ok(()),
            Some(sizes) => Err(Error::Invalid {
                what,
                needed: "as wide as every subgroup of the device",
                got: format!("{size} wide, for subgroups from {} to {}", sizes.0, sizes.1),
            }),
            None => Err(Error::Feature { missing: "SUBGROUP", what }),
        }
    }

    /// Spreads `groups` workgroups over two dimensions, each within the limit. The shader folds
    /// them back with `id.x + id.y * x` and lets the surplus return.
    pub(crate) fn fold_groups(&self, groups: u64) -> Result<[u32; 2]> {
        let max = u64::from(self.max_workgroups.max(1));
        let y = groups.div_ceil(max).max(1);
        let x = groups.div_ceil(y).max(1);
        Self::need("max_compute_workgroups_per_dimension", "one call's workgroups", y, max)?;
        match (u32::try_from(x), u32::try_from(y), u32::try_from(groups)) {
            (Ok(x), Ok(y), Ok(_)) => Ok([x, y]),
            _ => Err(Error::IndexOverflow { tensor: "workgroups", index: groups }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_groups_cover_all_with_little_surplus() {
        let mut caps = Capabilities::webgpu_default();
        for max in [7, 100, 65535] {
            caps.max_workgroups = max;
            for groups in [1, 6, 7, 8, 48, 49, 50, 1000, 65535, 65536, 1 << 20] {
                let limit = u64::from(max);
                match caps.fold_groups(groups) {
                    Ok([x, y]) => {
                        let covered = u64::from(x) * u64::from(y);
                        assert!(x <= max && y <= max && covered >= groups);
                        assert!(covered - groups < u64::from(y));
                    }
                    Err(_) => assert!(groups > limit * limit),
                }
            }
        }
    }
}
