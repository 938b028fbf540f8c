//! A shader as a plan hands it to a device, and how plans join its text.

use core::fmt::Write as _;

use super::{KernelKind, MatrixSide};
use crate::plan::cache::CacheType;

/// The text of a file of `shaders/`, by its name without `.wgsl`, in parts if need be.
macro_rules! wgsl {
    ($($part:literal),+) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $($part,)+ ".wgsl"))
    };
}
pub(crate) use wgsl;

/// The file for a tensor that is stored so: `stored!(problem.q_dtype, "io/q")` is `io/q_f32` or
/// `io/q_f16`.
macro_rules! stored {
    ($dtype:expr, $name:literal) => {
        match $dtype {
            $crate::DType::F32 => $crate::plan::shader::wgsl!($name, "_f32"),
            $crate::DType::F16 => $crate::plan::shader::wgsl!($name, "_f16"),
        }
    };
}
pub(crate) use stored;

/// As [`stored!`], for K or V of a cache.
macro_rules! cached {
    ($stored:expr, $name:literal) => {
        match $stored {
            $crate::plan::cache::CacheType::F32 => $crate::plan::shader::wgsl!($name, "_f32"),
            $crate::plan::cache::CacheType::F16 => $crate::plan::shader::wgsl!($name, "_f16"),
            $crate::plan::cache::CacheType::Int8 => $crate::plan::shader::wgsl!($name, "_int8"),
            $crate::plan::cache::CacheType::Q4 => $crate::plan::shader::wgsl!($name, "_q4"),
        }
    };
}
pub(crate) use cached;

/// The codecs of quantised rows that kernels need where K and V of a cache are stored so. They call
/// `not_finite`, of `finite.wgsl`.
pub(crate) fn codecs<'a>(k: CacheType, v: CacheType) -> impl Iterator<Item = &'a str> {
    let codec = move |stored, file| (k == stored || v == stored).then_some(file);
    let int8 = codec(CacheType::Int8, wgsl!("cache/int8"));
    int8.into_iter().chain(codec(CacheType::Q4, wgsl!("cache/q4")))
}

/// The text of a shader: constants first, then files.
#[derive(Debug, Default)]
pub(crate) struct Source {
    text: String,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Constants and files that come behind this file.
    pub(crate) fn behind(file: &str) -> Self {
        Self { text: file.to_owned() }
    }

    /// `const NAME: u32 = …;` for each.
    pub(crate) fn numbers(
        mut self,
        numbers: impl IntoIterator<Item = (&'static str, u32)>,
    ) -> Self {
        for (name, value) in numbers {
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "const {name}: u32 = {value}u;");
        }
        self
    }

    /// `const NAME: bool = …;` for each.
    pub(crate) fn flags(mut self, flags: impl IntoIterator<Item = (&'static str, bool)>) -> Self {
        for (name, value) in flags {
            let _ = writeln!(self.text, "const {name}: bool = {value};");
        }
        self
    }

    /// The constants, and behind them the files. A hook is one of them, and need not end in a
    /// newline.
    pub(crate) fn files<'a>(mut self, files: impl IntoIterator<Item = &'a str>) -> String {
        for file in files {
            self.text.push('\n');
            self.text.push_str(file);
        }
        self.text
    }
}

/// Values of flags and numbers that are overrides.
pub(crate) fn overrides<const N: usize>(
    values: [(&'static str, u32); N],
) -> impl Iterator<Item = (&'static str, f64)> {
    values.into_iter().map(|(name, value)| (name, value.into()))
}

/// What a shader binds, as WebGPU calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BindingType {
    /// `uniform`.
    Uniform,
    /// `storage`: written, and perhaps read.
    Storage,
    /// `read-only-storage`.
    ReadOnlyStorage,
}

impl BindingType {
    /// WebGPU's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Storage => "storage",
            Self::ReadOnlyStorage => "read-only-storage",
        }
    }
}

/// What a host may leave out of a shader that it compiles, since the shader sees to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wishes {
    /// Workgroup memory has to begin as zeros. Every kernel writes it before it reads it.
    pub zero_initialize_workgroup_memory: bool,
    /// Loops need a bound so that they end. Every loop counts a u32 up to a bound that is a
    /// constant or read from the call's parameters before the loop, by a constant step.
    pub bound_loops: bool,
    /// Indices of buffers have to be checked. Ids, lengths and page numbers come from the device,
    /// so these stay.
    pub check_bounds: bool,
}

/// One compute shader: plain WGSL, an entry point and the values of its overrides. Everything
/// that compiles a plan (this crate, its tests, tools that ask a vendor's compiler) starts here.
#[derive(Debug, Clone, PartialEq)]
pub struct Shader {
    /// The kernel that it is a pass of.
    pub kernel: KernelKind,
    /// Kernel, path and tile, for labels and reports.
    pub label: String,
    /// Concatenated WGSL files, behind a block of `const` lines where WGSL forbids an override.
    pub source: String,
    /// Name of the `@compute` function.
    pub entry: &'static str,
    /// Values of the pipeline-overridable constants, by name. Never empty: wgpu 30 on Vulkan
    /// translates a module without overrides before it knows the pipeline's runtime checks, so it
    /// bounds loops and zeroes workgroup memory whatever was asked for.
    pub overrides: Vec<(&'static str, f64)>,
    /// Invocations of one workgroup.
    pub workgroup_size: u32,
    /// Workgroup memory of one workgroup, in bytes.
    pub workgroup_bytes: u32,
    /// Storage buffers that the entry point binds.
    pub storage_buffers: u32,
    /// Bytes of the table that it reads from a uniform buffer, beside its parameters; 0 without
    /// one.
    pub table_bytes: u64,
    /// The least and the largest size that subgroups may have, where it uses subgroup operations
    /// (the feature `SUBGROUP`).
    pub subgroup: Option<(u32, u32)>,
    /// The side of its matrices, where it multiplies them on matrix units (the features
    /// `SHADER_F16` and `EXPERIMENTAL_COOPERATIVE_MATRIX`).
    pub matrices: Option<MatrixSide>,
}

impl Shader {
    /// Name and number of every binding that a shader of this crate may have, all in group 0. A
    /// name has the same number in all kernels.
    pub const BINDINGS: &[(&str, u32)] = super::binding::ALL;
}

#[cfg(feature = "serde")]
impl Shader {
    /// The shader as a JSON object, for programs in other languages that compile or run it:
    /// `kernel`, `label`, `source` (WGSL), `entry`, `overrides` (an object), `workgroup_size`,
    /// `workgroup_bytes`, `storage_buffers`, `table_bytes`, `subgroup` (two numbers, or null) and
    /// `matrices` (a number, or null), as the fields of the same names. Bindings are those of the
    /// WGSL, all in group 0.
    pub fn to_json(&self) -> serde_json::Value {
        let overrides: serde_json::Map<_, _> =
            self.overrides.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        serde_json::json!({
            "kernel": self.kernel.name(),
            "label": self.label,
            "source": self.source,
            "entry": self.entry,
            "overrides": overrides,
            "workgroup_size": self.workgroup_size,
            "workgroup_bytes": self.workgroup_bytes,
            "storage_buffers": self.storage_buffers,
            "table_bytes": self.table_bytes,
            "subgroup": self.subgroup,
            "matrices": self.matrices.map(MatrixSide::rows),
        })
    }
}

impl Shader {
    /// What all shaders of this crate ask of a compiler.
    pub const WISHES: Wishes =
        Wishes { zero_initialize_workgroup_memory: false, bound_loops: false, check_bounds: true };
}
