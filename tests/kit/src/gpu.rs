//! A device of one's own, uploads, downloads and runs that block.

use half::f16;
pub use phasor::Precision;
use phasor::wgpu::{self, util::DeviceExt as _};
use phasor::{Capabilities, DType};

/// A device, its queue and what it is, and the instance that keeps count of all objects.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub instance: wgpu::Instance,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub adapter: wgpu::Adapter,
    pub info: wgpu::AdapterInfo,
}

fn instance(memory_budget_thresholds: wgpu::MemoryBudgetThresholds) -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        memory_budget_thresholds,
        ..wgpu::InstanceDescriptor::new_without_display_handle_from_env()
    })
}

/// What wgpu calls experimental, where a device is to have it.
#[expect(unsafe_code, reason = "wgpu's opt-in; what it asks for is stated here")]
fn experiments(features: wgpu::Features) -> wgpu::ExperimentalFeatures {
    if !features.intersects(wgpu::Features::all_experimental_mask()) {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: wgpu asks for acceptance that unfinished code may be unsound. Of it these programs
    // use matrices alone, in shaders whose every store and load of one lies within its array.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// A precision by its name on the command line.
///
/// # Errors
/// For another word.
pub fn precision(name: &str) -> Result<Precision, String> {
    match name {
        "f32" => Ok(Precision::F32),
        "f16" => Ok(Precision::F16Products),
        "f16x3" => Ok(Precision::F16x3Products),
        other => Err(format!("{other}: f32, f16 or f16x3")),
    }
}

const NO_ADAPTER: &str = "no GPU adapter was found, not even a software one. On Linux run the \
    command through scripts/with-adapter.sh, which installs one where none is there; \
    on other systems install the GPU's driver";

impl Gpu {
    /// A device with all the limits of the adapter; subgroups, timestamps and matrix units where it
    /// has them.
    /// `WGPU_BACKEND` and `WGPU_ADAPTER_NAME` choose among several adapters.
    pub fn new() -> Result<Self, String> {
        Self::with(|adapter| {
            let wanted = wgpu::Features::SUBGROUP
                | wgpu::Features::TIMESTAMP_QUERY
                | Capabilities::MATRIX_FEATURES;
            (adapter.limits(), adapter.features() & wanted)
        })
    }

    /// A device with the limits and features that `choose` picks for the adapter.
    pub fn with(
        choose: impl FnOnce(&wgpu::Adapter) -> (wgpu::Limits, wgpu::Features),
    ) -> Result<Self, String> {
        Self::from_instance(instance(Default::default()), choose)
    }

    /// A device of an instance that refuses resources past a share of the memory budget, where the
    /// backend keeps one.
    pub fn with_budget(budget: wgpu::MemoryBudgetThresholds) -> Result<Self, String> {
        Self::from_instance(instance(budget), |adapter| (adapter.limits(), wgpu::Features::empty()))
    }

    /// A device of an instance that has others.
    pub fn from_instance(
        instance: wgpu::Instance,
        choose: impl FnOnce(&wgpu::Adapter) -> (wgpu::Limits, wgpu::Features),
    ) -> Result<Self, String> {
        pollster::block_on(async {
            let adapter = match wgpu::util::initialize_adapter_from_env(&instance, None).await {
                Ok(adapter) => adapter,
                Err(_) => instance
                    .request_adapter(&wgpu::RequestAdapterOptions {
                        power_preference: wgpu::PowerPreference::HighPerformance,
                        ..Default::default()
                    })
                    .await
                    .map_err(|e| format!("{NO_ADAPTER} ({e})"))?,
            };
            let (required_limits, required_features) = choose(&adapter);
            let (device, queue) = adapter
                .request_device(&wgpu::DeviceDescriptor {
                    label: Some("phasor-kit"),
                    required_limits,
                    required_features,
                    experimental_features: experiments(required_features),
                    ..Default::default()
                })
                .await
                .map_err(|e| e.to_string())?;
            let (info, instance) = (adapter.get_info(), instance.clone());
            Ok(Self { device, queue, adapter, info, instance })
        })
    }

    /// What the device offers to plans.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::of(&self.device).with_adapter(&self.adapter)
    }

    /// The same for plans of a precision: on matrix units, after the self-test that opens them, or
    /// without one where the caller insists.
    pub fn tested(&self, precision: Precision, insist: bool) -> Capabilities {
        let caps = self.capabilities();
        if insist || !precision.on_matrices() {
            return caps.insist_on_matrices();
        }
        phasor::selftest::selftest_with(&self.device, &self.queue, caps.clone()).apply(caps)
    }

    /// A storage buffer with these elements, stored as `dtype`.
    pub fn upload(&self, data: &[f32], dtype: DType) -> wgpu::Buffer {
        match dtype {
            DType::F32 => self.upload_bytes(bytemuck::cast_slice(data)),
            DType::F16 => {
                let mut halves: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
                halves.resize(halves.len().next_multiple_of(2), f16::ZERO);
                self.upload_bytes(bytemuck::cast_slice(&halves))
            }
        }
    }

    /// A storage buffer with these words.
    pub fn upload_u32(&self, data: &[u32]) -> wgpu::Buffer {
        self.upload_bytes(bytemuck::cast_slice(data))
    }

    /// A storage buffer with these bytes; 16 bytes at least, so that it can be bound.
    pub fn upload_bytes(&self, bytes: &[u8]) -> wgpu::Buffer {
        let mut contents = bytes.to_vec();
        contents.resize(bytes.len().next_multiple_of(16).max(16), 0);
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: &contents,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
        })
    }

    /// An output of `elements` elements, all NaN, so that one that is never written shows.
    pub fn output(&self, elements: usize, dtype: DType) -> wgpu::Buffer {
        self.upload(&vec![f32::NAN; elements], dtype)
    }

    /// Records, submits and waits. Panics with wgpu's message on a validation error.
    pub fn run(&self, record: impl FnOnce(&mut wgpu::CommandEncoder)) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        record(&mut encoder);
        self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is lost");
    }

    /// The elements of a whole buffer.
    pub fn download(&self, buffer: &wgpu::Buffer, dtype: DType) -> Vec<f32> {
        let bytes = self.download_bytes(buffer);
        match dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            DType::F16 => {
                let halves: Vec<f16> = bytemuck::pod_collect_to_vec(&bytes);
                halves.into_iter().map(f32::from).collect()
            }
        }
    }

    /// The bytes of a whole buffer.
    pub fn download_bytes(&self, buffer: &wgpu::Buffer) -> Vec<u8> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("download"),
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.run(|encoder| encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, None));
        staging.slice(..).map_async(wgpu::MapMode::Read, |result| {
            result.expect("a staging buffer maps");
        });
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is lost");
        let bytes = staging.slice(..).get_mapped_range().expect("mapped above").to_vec();
        staging.unmap();
        bytes
    }
}
