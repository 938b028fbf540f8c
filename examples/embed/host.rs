//! A host application: it has a device, a queue, buffers and passes of its own, and knows nothing
//! of phasor.

use phasor::wgpu::{self, util::DeviceExt as _};

use crate::Result;

pub struct Host {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pipeline: wgpu::ComputePipeline,
}

/// A matrix product that the host records into its passes.
pub struct Product {
    group: wgpu::BindGroup,
    workgroups: [u32; 2],
}

impl Host {
    /// Whatever adapter is there, with WebGPU's default limits.
    pub fn new() -> Result<Self> {
        let instance =
            wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let (device, queue) = pollster::block_on(async {
            let adapter = instance.request_adapter(&Default::default()).await?;
            println!("{}", adapter.get_info().name);
            // Attention on software adapters is several times faster with subgroups.
            let required_features = adapter.features() & wgpu::Features::SUBGROUP;
            let device = wgpu::DeviceDescriptor { required_features, ..Default::default() };
            Ok::<_, Box<dyn std::error::Error>>(adapter.request_device(&device).await?)
        })?;
        let module = device.create_shader_module(wgpu::include_wgsl!("host.wgsl"));
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("host: product"),
            layout: None,
            module: &module,
            entry_point: Some("product"),
            compilation_options: Default::default(),
            cache: None,
        });
        Ok(Self { device, queue, pipeline })
    }

    pub fn buffer(&self, label: &str, floats: u32) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: 4 * u64::from(floats),
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// `[rows, inputs]` times the transpose of `[outputs, inputs]`.
    pub fn product(
        &self,
        [x, w, y]: [&wgpu::Buffer; 3],
        [rows, inputs, outputs]: [u32; 3],
    ) -> Product {
        let shape = self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("host: shape"),
            contents: bytemuck::bytes_of(&[rows, inputs, outputs, 0]),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("host: product"),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: shape.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: x.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 2, resource: w.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 3, resource: y.as_entire_binding() },
            ],
        });
        Product { group, workgroups: [outputs.div_ceil(64), rows] }
    }

    /// A pass of the host's own.
    pub fn pass(&self, encoder: &mut wgpu::CommandEncoder, product: &Product) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &product.group, &[]);
        pass.dispatch_workgroups(product.workgroups[0], product.workgroups[1], 1);
    }

    /// What a buffer holds once all that was submitted has run.
    pub fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<f32>> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("host: staging"),
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, None);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            // The receiver waits below.
            let _ = sender.send(result);
        });
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        receiver.recv()??;
        let floats = bytemuck::pod_collect_to_vec(&staging.slice(..).get_mapped_range()?);
        Ok(floats)
    }
}
