//! What a host needs to run a recipe: nothing here knows which kernel it runs.

use phasor::recipe::{Entry, Plan, Range, Recipe, Resource};
use phasor::shader::Shader;
use wgpu::util::DeviceExt as _;

pub struct Host {
    pub adapter: String,
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Host {
    /// A device with WebGPU's default limits, which is what recipes are planned for here.
    pub fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let instance = wgpu::Instance::default();
        let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
        let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
        Ok(Self { adapter: adapter.get_info().name, device, queue })
    }

    pub fn buffer(&self, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let label = None;
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label, contents, usage })
    }

    /// Runs a recipe, whose ranges are in `buffers`.
    pub fn run<P: Plan>(&self, plan: &P, recipe: &Recipe<Range>, buffers: &[wgpu::Buffer]) {
        let pipelines: Vec<_> =
            plan.stages().into_iter().map(|stage| self.compile(stage)).collect();
        let tables = plan.tables();
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for step in &recipe.steps {
            let pipeline = &pipelines[step.stage];
            let bind = |entry| self.resource(entry, buffers, tables[step.stage].as_deref());
            let bound: Vec<_> = step.entries.iter().map(bind).collect();
            let entries = step.entries.iter().zip(&bound).map(|(entry, (buffer, offset, size))| {
                let (offset, size) = (*offset, wgpu::BufferSize::new(*size));
                let range = wgpu::BufferBinding { buffer, offset, size };
                wgpu::BindGroupEntry {
                    binding: entry.binding,
                    resource: wgpu::BindingResource::Buffer(range),
                }
            });
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries.collect::<Vec<_>>(),
            });
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &group, &[]);
            let [x, y] = step.workgroups;
            pass.dispatch_workgroups(x, y, 1);
        }
        self.queue.submit([encoder.finish()]);
    }

    fn compile(&self, stage: &Shader) -> wgpu::ComputePipeline {
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&stage.label),
            source: wgpu::ShaderSource::Wgsl(stage.source.as_str().into()),
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&stage.label),
            layout: None,
            module: &module,
            entry_point: Some(stage.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &stage.overrides,
                zero_initialize_workgroup_memory: Shader::WISHES.zero_initialize_workgroup_memory,
            },
            cache: None,
        })
    }

    /// Buffer, offset and size of a binding. A host that runs a call often keeps what it makes
    /// here.
    fn resource(
        &self,
        entry: &Entry<Range>,
        buffers: &[wgpu::Buffer],
        table: Option<&[u8]>,
    ) -> (wgpu::Buffer, u64, u64) {
        let whole = |contents: &[u8], usage| {
            let buffer = self.buffer(contents, usage);
            let size = buffer.size();
            (buffer, 0, size)
        };
        let (uniform, storage) = (wgpu::BufferUsages::UNIFORM, wgpu::BufferUsages::STORAGE);
        match &entry.resource {
            Resource::Caller(range) => {
                (buffers[range.buffer as usize].clone(), range.offset, range.size)
            }
            Resource::Params(bytes) => whole(bytes, uniform),
            Resource::Table => whole(table.unwrap_or(&[]), uniform | storage),
            Resource::Data(bytes) => whole(bytes, storage),
            Resource::Unused => whole(&[0; 16], storage),
        }
    }

    /// The bytes of a buffer.
    pub fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let copy = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        copy.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        receiver.recv()??;
        Ok(copy.get_mapped_range(..).to_vec())
    }
}
