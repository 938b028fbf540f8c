//! The part that runs with a GPU's driver: a process of its own for each, which writes one line of
//! JSON a variant to standard output. Two drivers write their disassembly there as well, before it.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use phasor::attention::Tile;
use phasor::{Capabilities, Sharing, wgpu};
use serde::{Deserialize, Serialize};

use crate::gpus::{Gpu, Vendor};
use crate::statistics::Statistics;
use crate::variants::{Selection, variants};
use crate::vulkan::{self, Driver};
use crate::{isa, spirv};

/// What stands before a line of JSON.
pub const MARK: &str = "@gpu-lab ";

/// One kernel on one GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub gpu: String,
    pub driver: String,
    pub variant: String,
    pub head_dim: u32,
    /// The shader's label: kernel, sizes, tile and storage.
    pub kernel: String,
    /// None where the driver refused the kernel: then `error` says why.
    pub statistics: Option<Statistics>,
    pub error: Option<String>,
}

/// A line from the probe: a record, and what the parent needs to complete it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    pub record: Record,
    pub parts: isa::Parts,
    pub disassembly: String,
    pub wgsl: String,
}

/// What wgpu calls experimental, where a device is to have it.
#[expect(unsafe_code, reason = "wgpu's opt-in; what it asks for is stated here")]
fn experiments(matrices: bool) -> wgpu::ExperimentalFeatures {
    if !matrices {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: wgpu asks for acceptance that unfinished code may be unsound. This device compiles
    // and runs nothing; it is made for its limits.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// What the crate would see: a device with all the limits of the adapter, and subgroups; its matrix
/// units where they are asked for.
pub fn capabilities(matrices: bool) -> Result<Capabilities> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(descriptor);
    pollster::block_on(async {
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions::default())
            .await
            .context("wgpu finds no adapter")?;
        let wanted = match matrices {
            true => wgpu::Features::SUBGROUP | Capabilities::MATRIX_FEATURES,
            false => wgpu::Features::SUBGROUP,
        };
        let (device, _queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                required_limits: adapter.limits(),
                required_features: adapter.features() & wanted,
                experimental_features: experiments(matrices),
                ..Default::default()
            })
            .await
            .context("wgpu makes no device")?;
        Ok(Capabilities::of(&device).with_adapter(&adapter).insist_on_matrices())
    })
}

/// Compiles the variants of a selection that have `named` in their name, with the driver that the
/// loader finds, and with wgpu's checks or without.
pub fn probe(
    gpu: &Gpu,
    (selection, named): (Selection, &str),
    tile: Option<Tile>,
    sharing: Sharing,
    unchecked: bool,
) -> Result<()> {
    let caps = capabilities(selection == Selection::Matrices)?.sharing(sharing);
    let driver = Driver::open()?;
    let variants = variants(&caps, selection, tile)?;
    for variant in variants.into_iter().filter(|variant| variant.name.contains(named)) {
        let mut record = Record {
            gpu: gpu.name.into(),
            driver: driver.description.clone(),
            variant: variant.name,
            head_dim: variant.head_dim,
            kernel: String::new(),
            statistics: None,
            error: None,
        };
        let (mut disassembly, mut wgsl) = (String::new(), String::new());
        let compiled = variant.shader.map_err(anyhow::Error::from).and_then(|shader| {
            record.kernel = shader.label.clone();
            let spirv = spirv::compile(&shader, driver.robust_buffers, unchecked)?;
            let compiled = driver.compile(&shader, &spirv, caps.subgroup.is_some())?;
            let workgroup = [shader.workgroup_size, shader.workgroup_bytes];
            record.statistics = Some(Statistics::new(gpu, &compiled, workgroup)?);
            wgsl = shader.source;
            Ok(compiled.disassembly)
        });
        match compiled {
            Ok(text) => disassembly = text,
            Err(error) => record.error = Some(format!("{error:#}")),
        }
        if matches!(gpu.vendor, Vendor::Apple | Vendor::Adreno) {
            disassembly.clear(); // it is on standard output
        }
        vulkan::flush_c_output();
        let message = Message { record, parts: variant.parts, disassembly, wgsl };
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{MARK}{}", serde_json::to_string(&message)?)?;
        out.flush()?;
    }
    Ok(())
}
