//! One form for the statistics that each driver names in its own way.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::gpus::{Gpu, Vendor};
use crate::isa::Share;
use crate::vulkan::Compiled;

/// How many of something run at once on one unit of the GPU, as far as the driver tells: by
/// registers, and on AMD by workgroup memory as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Occupancy {
    pub value: f64,
    pub unit: String,
}

/// What a compiler made of one kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Registers of 32 bits an invocation (AMD: vector registers; Intel: live at most, of 128, or
    /// of 256 on lnl and bmg).
    pub registers: f64,
    /// Values that registers had no room for (instructions that spill or fill, or registers).
    pub spills: f64,
    /// Bytes of scratch memory an invocation, private arrays included.
    pub scratch: f64,
    pub workgroup_bytes: u32,
    pub invocations: u32,
    pub subgroup_size: u32,
    pub occupancy: Occupancy,
    /// NVIDIA: warps an SM by workgroup memory, which its driver's occupancy leaves out. An SM has
    /// 64 KiB on Turing and 100 on Ampere (GA10x) and Ada (CUDA C++ Programming Guide, compute
    /// capabilities), of which each workgroup costs 1 KiB more on the latter two.
    pub warps_by_memory: Option<f64>,
    pub instructions: f64,
    /// From the disassembly, which the parent of the probe reads.
    pub qk: Option<Share>,
    pub pv: Option<Share>,
    /// Matrix instructions among those of a step over keys, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<Share>,
}

impl Statistics {
    /// `workgroup`: invocations and bytes of memory of one.
    ///
    /// # Errors
    /// When the driver does not report a figure under the name that it is known by.
    pub fn new(gpu: &Gpu, compiled: &Compiled, workgroup: [u32; 2]) -> Result<Self> {
        let get = |name: &str| {
            let reported = || compiled.statistics.keys().cloned().collect::<Vec<_>>().join(", ");
            let value = compiled.statistics.get(name).copied();
            value.with_context(|| format!("no statistic `{name}` among {}", reported()))
        };
        let sum = |names: &[&str]| names.iter().map(|name| get(name)).sum::<Result<f64>>();
        let [invocations, workgroup_bytes] = workgroup;
        let lanes = f64::from(compiled.subgroup_size);
        let (registers, spills, scratch, instructions, occupancy, unit) = match gpu.vendor {
            Vendor::Amd => (
                get("VGPRs")?,
                sum(&["Spilled SGPRs", "Spilled VGPRs"])?,
                get("Scratch size")?,
                get("Instructions")?,
                get("Subgroups per SIMD")?,
                "waves/SIMD",
            ),
            Vendor::Nvidia => (
                get("Number of GPRs")?,
                // "Spills to reg" are moves from one register file to another, and touch no memory.
                sum(&["Spills to memory", "Fills from memory"])?,
                get("SLM size")?,
                get("Instruction count")?,
                get("Max warps/SM")?,
                "warps/SM",
            ),
            // It counts registers in vectors of four, and has scratch memory for spills alone.
            Vendor::Adreno => (
                4.0 * get("Registers used")?,
                sum(&["STP Count", "LDP Count"])?,
                0.0,
                get("Instruction Count")?,
                get("Max Waves Per Core")?,
                "waves/core",
            ),
            // It counts registers in halves.
            Vendor::Apple => (
                0.5 * get("GPRs")?,
                sum(&["Spills", "Fills"])?,
                get("Scratch")?,
                get("Instructions")?,
                get("Threads")?,
                "threads/core",
            ),
            Vendor::Intel => (
                get("Max live registers")?,
                sum(&["Spill Count", "Fill Count"])?,
                get("Scratch Memory Size")?,
                get("Instruction Count")?,
                lanes,
                "lanes",
            ),
        };
        let warps = (gpu.vendor == Vendor::Nvidia).then(|| {
            let (room, system) = if gpu.name == "turing" { (64, 0) } else { (100, 1) };
            let each = workgroup_bytes.max(1) + (system << 10);
            f64::from((room << 10) / each * invocations.div_ceil(32))
        });
        Ok(Self {
            registers,
            warps_by_memory: warps,
            spills,
            scratch,
            workgroup_bytes,
            invocations,
            subgroup_size: compiled.subgroup_size,
            occupancy: Occupancy { value: occupancy, unit: unit.into() },
            instructions,
            qk: None,
            pv: None,
            matrix: None,
        })
    }

    pub fn spills(&self) -> bool {
        self.spills > 0.0 || self.scratch > 0.0
    }

    /// The smaller share of the two parts, in per cent.
    pub fn worst_share(&self) -> Option<f64> {
        [self.qk, self.pv].into_iter().flatten().filter_map(|s| s.percent()).min_by(f64::total_cmp)
    }
}
