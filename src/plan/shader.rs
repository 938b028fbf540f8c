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
}
