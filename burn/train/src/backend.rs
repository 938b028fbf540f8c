//! What computes: phasor's kernels on a GPU, or the formula on Burn's CPU backend.

use burn::tensor::Device;
use burn::tensor::wgpu::wgpu::DeviceType;
use clap::ValueEnum;
use phasor_burn::Implementation;

use crate::Result;
use crate::memory::Memory;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// phasor's kernels on Burn's wgpu device.
    Gpu,
    /// The formula on Burn's CPU backend.
    Cpu,
}

/// A device that is ready.
pub struct Started {
    pub device: Device,
    pub implementation: Implementation,
    /// For people.
    pub name: String,
    /// Whether it is a GPU that is none.
    pub software: bool,
    pub memory: Memory,
}

impl Backend {
    /// # Errors
    /// Where Burn finds no adapter.
    pub fn start(self) -> Result<Started> {
        match self {
            Self::Gpu => {
                let (device, setup) = phasor_burn::init(Device::wgpu_options())?;
                let info = setup.adapter.get_info();
                Ok(Started {
                    device,
                    implementation: Implementation::Kernels,
                    name: format!("{} ({:?}), phasor's kernels", info.name, info.backend),
                    software: info.device_type == DeviceType::Cpu,
                    memory: Memory::of_gpu(&setup),
                })
            }
            Self::Cpu => Ok(Started {
                device: Device::flex(),
                implementation: Implementation::Formula,
                name: "Burn's CPU backend, the formula in its operations".to_owned(),
                software: false,
                memory: Memory::of_system(),
            }),
        }
    }
}

/// What was asked for, or else a GPU, or else the CPU; and the software adapter beside the CPU, to
/// hold it to the kernels.
///
/// # Errors
/// Where what was asked for is not there.
pub fn choose(asked: Option<Backend>) -> Result<(Started, Option<Started>)> {
    if let Some(asked) = asked {
        return Ok((asked.start()?, None));
    }
    match Backend::Gpu.start() {
        Ok(gpu) if !gpu.software => Ok((gpu, None)),
        Ok(software) => Ok((Backend::Cpu.start()?, Some(software))),
        Err(error) => {
            say!("no adapter ({error}), so the CPU")?;
            Ok((Backend::Cpu.start()?, None))
        }
    }
}
