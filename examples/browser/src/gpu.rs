//! The browser's device: asked for, watched, read from.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use futures_channel::oneshot;
use phasor::attention::AttentionProblem;
use phasor::decode::DecodeProblem;
use phasor::rope::RopeProblem;
use phasor::scores::ScoresProblem;
use phasor::{Capabilities, Kernels, wgpu};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;

use crate::{Result, thrown};

/// A WebGPU device, and what is known of it.
#[wasm_bindgen]
pub struct Gpu {
    shared: Rc<Shared>,
    lost: js_sys::Promise,
}

/// What everything that runs on the device keeps of it.
pub struct Shared {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub caps: Capabilities,
    /// Kernels that are compiled, kept for the next layer or trial.
    pub kernels: Compiled,
    /// The first error that nobody asked for.
    error: Arc<Mutex<Option<String>>>,
}

/// Kernels by their problems.
pub struct Compiled {
    pub rope: Kernels<RopeProblem>,
    pub scores: Kernels<ScoresProblem>,
    pub attention: Kernels<AttentionProblem>,
    pub decode: Kernels<DecodeProblem>,
}

#[wasm_bindgen]
impl Gpu {
    /// The browser's device, with all that its adapter has, or within WebGPU's default limits.
    ///
    /// # Errors
    /// Where there is no WebGPU, no adapter, or no device.
    pub async fn request(default_limits: bool) -> std::result::Result<Gpu, JsError> {
        Self::new(default_limits).await.map_err(thrown)
    }

    async fn new(default_limits: bool) -> Result<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
        let required_limits =
            if default_limits { wgpu::Limits::default() } else { adapter.limits() };
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, queue) = adapter.request_device(&descriptor).await?;

        let error = Arc::new(Mutex::new(None));
        let first = Arc::clone(&error);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| error.to_string());
        }));
        let (sender, receiver) = oneshot::channel();
        let sender = Mutex::new(Some(sender));
        device.set_device_lost_callback(move |reason, message| {
            let mut sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = sender.take() {
                // Nobody listens any more once the page has let go of the device.
                let _ = sender.send(format!("{reason:?}: {message}"));
            }
        });
        let lost = future_to_promise(async move {
            let message = receiver.await.unwrap_or_else(|_| "the page let go of it".to_owned());
            Ok(message.into())
        });
        let caps = Capabilities::of(&device);
        let kernels = Compiled {
            rope: Kernels::new(&device, caps.clone()),
            scores: Kernels::new(&device, caps.clone()),
            attention: Kernels::new(&device, caps.clone()),
            decode: Kernels::new(&device, caps.clone()),
        };
        let shared = Rc::new(Shared { device, queue, caps, kernels, error });
        Ok(Self { shared, lost })
    }

    /// Resolves when the device is lost, to the reason.
    pub fn lost(&self) -> js_sys::Promise {
        self.lost.clone()
    }

    /// Ends the device, as a crash of the driver would.
    pub fn destroy(&self) {
        self.shared.device.destroy();
    }

    /// What plans go by, one number or trait a line.
    pub fn capabilities(&self) -> String {
        let caps = &self.shared.caps;
        let kib = |bytes: u32| format!("{} KiB", bytes / 1024);
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        [
            ("storage buffers of a shader", caps.max_storage_buffers.to_string()),
            ("largest storage binding", mib(caps.max_storage_binding)),
            ("workgroup memory", kib(caps.max_workgroup_bytes)),
            ("invocations of a workgroup", caps.max_invocations.to_string()),
            ("shaders run on", if caps.software { "the CPU" } else { "the GPU" }.to_owned()),
        ]
        .map(|(name, value)| format!("{name}: {value}"))
        .join("\n")
    }
}

impl Gpu {
    pub fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.shared)
    }
}

impl Shared {
    /// A buffer that shaders read and write, and that is copied from and to.
    pub fn storage(&self, bytes: u64) -> wgpu::Buffer {
        self.buffer(
            bytes,
            wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
        )
    }

    /// A buffer that the page reads from.
    pub fn staging(&self, bytes: u64) -> wgpu::Buffer {
        self.buffer(bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }

    fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    }

    /// A storage buffer that holds these numbers.
    pub fn upload(&self, numbers: &[f32]) -> wgpu::Buffer {
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        let buffer = self.storage(bytes.len() as u64);
        self.queue.write_buffer(&buffer, 0, bytes);
        buffer
    }

    /// The contents of a staging buffer, once the device has done all that was submitted.
    ///
    /// # Errors
    /// Where the device is lost, or something went wrong on it before.
    pub async fn read(&self, staging: &wgpu::Buffer) -> Result<Vec<f32>> {
        let (sender, receiver) = oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |mapped| {
            // The receiver waits right here.
            let _ = sender.send(mapped);
        });
        let mapped = receiver.await;
        self.faultless()?;
        mapped??;
        let bytes = staging.get_mapped_range(..)?;
        let numbers = bytemuck::pod_collect_to_vec(&bytes[..]);
        drop(bytes);
        staging.unmap();
        Ok(numbers)
    }

    /// Waits, without holding the page up, until the device has done all that was submitted.
    ///
    /// # Errors
    /// Where something went wrong on the device.
    pub async fn done(&self) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        receiver.await?;
        self.faultless()
    }

    fn faultless(&self) -> Result<()> {
        match self.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}
