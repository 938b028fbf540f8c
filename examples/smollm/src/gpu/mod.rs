//! Positions, cache and attention on phasor: a pass is one step of [`Layers`].

mod clock;

use std::time::{Duration, Instant};

use phasor::cache::CacheType;
use phasor::layers::{Layer, Layers, Model, Rows, Sequence};
use phasor::{Budget, wgpu};
use phasor_kit::gpu::Gpu;

use crate::Result;
use crate::linear::Matrix;
use crate::model::Attention;
use crate::weights::Weights;
use clock::Clock;

/// How the sequence is kept and worked on.
#[derive(Debug, Clone)]
pub struct Options {
    /// Storage of K and V.
    pub kv: CacheType,
    /// Whether the cache is cut into pages.
    pub paged: bool,
    /// Tokens that the cache has room for.
    pub capacity: u32,
    /// Tokens of a prefill pass.
    pub chunk: u32,
    /// The most milliseconds that a dispatch of prefill should take, for the sake of a watchdog.
    pub split_ms: Option<f64>,
}

/// Rows of a page.
const PAGE: u32 = 16;

/// All layers, and one sequence in them.
pub struct OnGpu {
    gpu: Gpu,
    layers: Layers,
    sequence: Sequence,
    chunk: u32,
    /// Whether every dispatch is a submission of its own.
    split: bool,
    /// What the plans say of themselves.
    pub plans: String,
    /// Packed `[chunk, H_q + 2 H_kv, D]`, and `[chunk, H_out, D]`. Layers run one after the other
    /// and share them.
    qkv: wgpu::Buffer,
    out: wgpu::Buffer,
    /// Where the host reads `out`.
    staging: wgpu::Buffer,
    clock: Option<Clock>,
    rows: u32,
}

impl OnGpu {
    pub fn new(gpu: Gpu, weights: &Weights, options: &Options) -> Result<Self> {
        let (config, format) = (&weights.config, weights.cache(options.kv)?);
        let layer = Layer::new(weights.heads()?, format.kv_heads, config.rope.clone());
        let row = |heads: u32| u64::from(heads) * u64::from(format.head_dim);
        let all_heads = layer.heads.q_heads() + 2 * format.kv_heads;
        let (input, output) = (row(all_heads), row(layer.heads.heads().len() as u32));
        let layers = vec![layer.stored(options.kv, options.kv); config.layers as usize];
        let capacity = options.capacity.next_multiple_of(PAGE);
        let chunk = options.chunk.clamp(1, capacity);
        let model = Model {
            max_rows: chunk,
            rows: match options.paged {
                true => Rows::Paged { page_size: PAGE, pages: capacity / PAGE },
                false => Rows::Contiguous,
            },
            resumable: options.split_ms.is_some(),
            ..Model::new(layers, 1, capacity)
        };
        let plan = model.plan(&gpu.capabilities())?;
        let mut layers = Layers::new(&gpu.device, &plan)?;

        use wgpu::BufferUsages as Usage;
        let buffer = |label, row: u64, more, usage| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: 4 * u64::from(chunk) * row + more,
                usage,
                mapped_at_creation: false,
            })
        };
        let qkv = buffer("q, k, v", input, 0, Usage::STORAGE | Usage::COPY_DST);
        let out = buffer("attention", output, 0, Usage::STORAGE | Usage::COPY_SRC);
        for layer in 0..config.layers as usize {
            let [qkv, out] = [&qkv, &out].map(wgpu::Buffer::as_entire_buffer_binding);
            layers.bind_packed(layer, qkv, out)?;
        }
        let mapped = Usage::MAP_READ | Usage::COPY_DST;
        let mut on_gpu = Self {
            sequence: layers.start()?,
            layers,
            chunk,
            split: options.split_ms.is_some(),
            plans: plan.to_string(),
            staging: buffer("staging", output, Clock::BYTES, mapped),
            qkv,
            out,
            clock: Clock::new(&gpu),
            gpu,
            rows: 0,
        };
        if let Some(milliseconds) = options.split_ms {
            on_gpu.limit(milliseconds)?;
        }
        Ok(on_gpu)
    }

    /// Times the prefill call of a layer behind a full cache, and limits the others by what comes
    /// of it.
    fn limit(&mut self, milliseconds: f64) -> Result<()> {
        let Self { gpu, layers, sequence, chunk, .. } = self;
        if layers.least_budget() == Budget::flops(0) {
            return Err(
                "--split-ms cuts prefill; this cache is read by decode calls, which are short"
                    .into(),
            );
        }
        let (rows, capacity) = (*chunk, layers.plan().capacity());
        // Only the last step is computed: what the caches hold does not matter.
        layers.advance(&gpu.queue, &[(*sequence, rows)])?;
        while layers.rows(*sequence)? + rows <= capacity {
            (0..layers.plan().model().layers.len())
                .try_for_each(|layer| layers.parts(layer).map(drop))?;
            layers.advance(&gpu.queue, &[(*sequence, rows)])?;
        }
        let parts: Vec<_> = layers.parts(0)?.collect();
        let operations: u64 = parts.iter().filter_map(|part| part.flops()).sum();
        let mut taken = 0.0;
        // The first run compiles, on some drivers.
        for _ in 0..2 {
            let start = Instant::now();
            gpu.run(|encoder| parts.iter().for_each(|part| part.encode(encoder)));
            taken = start.elapsed().as_secs_f64() * 1e3;
        }
        layers.abandon();
        // A budget below one key tile of one workgroup cannot be kept.
        let budget = Budget::time(milliseconds, operations as f64 / taken)?;
        layers.set_budget(budget.max(layers.least_budget()))?;
        layers.advance(&gpu.queue, &[(*sequence, rows)])?;
        let parts = layers.parts(0)?.count();
        layers.abandon();
        self.plans += &format!(
            "\nsplit: {rows} rows over {capacity} keys took {taken:.3} ms, and are cut into {parts} \
             dispatches of {milliseconds} ms",
        );
        self.reset()
    }
}

impl Attention for OnGpu {
    fn chunk(&self) -> usize {
        self.chunk as usize
    }

    fn reset(&mut self) -> Result<()> {
        self.layers.end(self.sequence)?;
        self.sequence = self.layers.start()?;
        Ok(())
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        self.rows = rows as u32;
        // What the pass before left undone, where it failed.
        self.layers.abandon();
        Ok(self.layers.advance(&self.gpu.queue, &[(self.sequence, self.rows)])?)
    }

    fn layer(&mut self, layer: usize, qkv: &Matrix) -> Result<Matrix> {
        let Gpu { device, queue, .. } = &self.gpu;
        queue.write_buffer(&self.qkv, 0, bytemuck::cast_slice(qkv.data()));
        let parts: Vec<_> = self.layers.parts(layer)?.collect();
        let together = if self.split { 1 } else { parts.len() };
        let mut encoder = device.create_command_encoder(&Default::default());
        for (n, some) in parts.chunks(together).enumerate() {
            if n > 0 {
                let next = device.create_command_encoder(&Default::default());
                queue.submit([std::mem::replace(&mut encoder, next).finish()]);
            }
            let (first, last) = (n == 0, (n + 1) * together >= parts.len());
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("layer"),
                timestamp_writes: self.clock.as_ref().and_then(|clock| clock.writes(first, last)),
            });
            some.iter().for_each(|part| part.record(&mut pass));
        }
        let mut bytes = u64::from(self.rows) * (self.out.size() / u64::from(self.chunk));
        let width = (bytes / 4 / u64::from(self.rows)) as usize;
        encoder.copy_buffer_to_buffer(&self.out, 0, &self.staging, 0, bytes);
        if let Some(clock) = &self.clock {
            clock.read(&mut encoder, &self.staging, bytes);
            bytes += Clock::BYTES;
        }
        queue.submit([encoder.finish()]);

        // The output projection runs on the host: this is all that has to come back.
        let (done, mapped) = std::sync::mpsc::channel();
        let range = self.staging.slice(..bytes);
        range.map_async(wgpu::MapMode::Read, move |result| drop(done.send(result)));
        device.poll(wgpu::PollType::wait_indefinitely())?;
        mapped.recv()??;
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&range.get_mapped_range()?);
        self.staging.unmap();
        if let Some(clock) = &mut self.clock {
            clock.add(&values.split_off(values.len() - Clock::BYTES as usize / 4));
        }
        Matrix::new(width, values)
    }

    fn finish(&mut self) {}

    fn kernel_time(&self) -> Option<Duration> {
        self.clock.as_ref().map(Clock::total)
    }
}
