//! A shader as a plan hands it to a device.

/// One compute shader: plain WGSL, an entry point and the values of its overrides. Everything
/// that compiles a plan (this crate, its tests, tools that ask a vendor's compiler) starts here.
#[derive(Debug, Clone, PartialEq)]
pub struct Shader {
    /// Kernel, path and tile, for labels and reports.
    pub label: String,
    /// Concatenated WGSL files, behind a block of `const` lines where WGSL forbids an override.
    pub source: String,
    /// Name of the `@compute` function.
    pub entry: &'static str,
    /// Values of the pipeline-overridable constants, by name. There is always one: wgpu 30 on Vulkan
    /// writes a module without overrides to SPIR-V before it knows which checks the pipeline wants,
    /// and so bounds its loops and zeroes its workgroup memory whatever was asked for.
    pub overrides: Vec<(&'static str, f64)>,
    /// Invocations of one workgroup.
    pub workgroup_size: u32,
    /// Workgroup memory of one workgroup, in bytes.
    pub workgroup_bytes: u32,
    /// Storage buffers that the entry point binds.
    pub storage_buffers: u32,
    /// Whether it uses subgroup operations, the feature `SUBGROUP`.
    pub subgroup: bool,
}

#[cfg(feature = "serde")]
impl Shader {
    /// The shader as a JSON object, for programs in other languages that compile or run it: `label`,
    /// `source` (WGSL), `entry`, `overrides` (an object), `workgroup_size`, `workgroup_bytes`,
    /// `storage_buffers` and `subgroup`, as the fields of the same names. Bindings are those of the WGSL, all in
    /// group 0.
    pub fn to_json(&self) -> serde_json::Value {
        let overrides: serde_json::Map<_, _> =
            self.overrides.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        serde_json::json!({
            "label": self.label,
            "source": self.source,
            "entry": self.entry,
            "overrides": overrides,
            "workgroup_size": self.workgroup_size,
            "workgroup_bytes": self.workgroup_bytes,
            "storage_buffers": self.storage_buffers,
            "subgroup": self.subgroup,
        })
    }
}
