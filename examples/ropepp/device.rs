//! The host's side of the GPU: a device, uploads and downloads, as any program of wgpu has them.

use std::sync::mpsc;

use phasor::wgpu::{self, util::DeviceExt as _};

use crate::Result;

const NO_ADAPTER: &str = "no GPU adapter was found, not even a software one. On Linux run the \
    command through scripts/with-adapter.sh, which installs one where none is there; \
    on other systems install the GPU's driver";

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

pub struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
}

impl Gpu {
    /// A device with all that the adapter offers to attention. `WGPU_BACKEND` and
    /// `WGPU_ADAPTER_NAME` choose among several adapters.
    pub fn new() -> Result<Self> {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        let instance = wgpu::Instance::new(descriptor);
        pollster::block_on(async {
            let adapter = wgpu::util::initialize_adapter_from_env_or_default(&instance, None)
                .await
                .map_err(|error| format!("{NO_ADAPTER} ({error})"))?;
            let (device, queue) = adapter
                .request_device(&wgpu::DeviceDescriptor {
                    // Software adapters are several times faster with subgroups.
                    required_features: adapter.features() & wgpu::Features::SUBGROUP,
                    required_limits: adapter.limits(),
                    ..Default::default()
                })
                .await?;
            Ok(Self { device, queue })
        })
    }

    /// A storage buffer with these bytes.
    pub fn upload(&self, contents: &[u8]) -> wgpu::Buffer {
        let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents, usage: USAGE };
        self.device.create_buffer_init(&descriptor)
    }

    /// An output of so many floats, all NaN, so that one that is never written shows.
    pub fn output(&self, floats: usize) -> wgpu::Buffer {
        self.upload(bytemuck::cast_slice(&vec![f32::NAN; floats]))
    }

    /// Records, submits and waits.
    pub fn run(&self, record: impl FnOnce(&mut wgpu::CommandEncoder)) -> Result<()> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        record(&mut encoder);
        self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    /// The floats of a whole buffer.
    pub fn download(&self, buffer: &wgpu::Buffer) -> Result<Vec<f32>> {
        let (sender, receiver) = mpsc::channel();
        let done = move |read| {
            // The receiver waits below.
            let _ = sender.send(read);
        };
        let all = buffer.slice(..);
        wgpu::util::DownloadBuffer::read_buffer(&self.device, &self.queue, &all, done);
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(bytemuck::pod_collect_to_vec(&receiver.recv()??))
    }
}
