//! Positions, cache and attention on phasor. Everything is compiled once and bound once for each
//! number of rows; a pass writes the length, a layer writes q, k, v and records two calls.

mod clock;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use phasor::attention::{
    Attention as Prefill, AttentionBindings, AttentionProblem, AttentionShape,
};
use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheTensor, CacheType, check_room};
use phasor::decode::{Decode, DecodeBindings, DecodeProblem, DecodeShape};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::rotary::{CosSin, Positions, Rotation, TableShape};
use phasor::{Budget, DType, Dispatch, HeadMap, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use crate::Result;
use crate::linear::Matrix;
use crate::model::Attention;
use crate::pages::Pages;
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

/// The two calls of one layer.
struct Calls {
    append: Dispatch,
    attend: Dispatch,
}

/// The caches of all layers, and the kernels that write and read them.
pub struct OnGpu {
    gpu: Gpu,
    heads: HeadMap,
    format: CacheFormat,
    capacity: u32,
    chunk: u32,
    append: KvAppend,
    decode: Decode,
    prefill: Prefill,
    /// The most that a dispatch of `prefill` computes. Where there is a limit, every dispatch is a
    /// submission of its own.
    budget: Budget,
    /// What the plans say of themselves.
    pub plans: String,
    /// K and V of each layer.
    caches: Vec<[wgpu::Buffer; 2]>,
    pages: Option<Pages>,
    table: (wgpu::Buffer, TableShape),
    /// Length before and after the tokens of the pass.
    lens: [wgpu::Buffer; 2],
    /// Packed `[rows, H_q + 2 H_kv, D]`, and `[rows, H_out, D]`. Layers run one after the other and
    /// share them.
    qkv: wgpu::Buffer,
    out: wgpu::Buffer,
    workspace: Option<wgpu::Buffer>,
    /// Where the host reads `out`.
    staging: wgpu::Buffer,
    clock: Option<Clock>,
    bound: HashMap<u32, Vec<Calls>>,
    len: u32,
    rows: u32,
}

impl OnGpu {
    pub fn new(gpu: Gpu, weights: &Weights, options: &Options) -> Result<Self> {
        let caps = gpu.capabilities();
        let config = &weights.config;
        let heads = weights.heads()?;
        let format = CacheFormat { paged: options.paged, ..weights.cache(options.kv)? };
        let capacity = options.capacity.next_multiple_of(Pages::SIZE);
        let chunk = options.chunk.clamp(1, capacity);
        let (rotary_dim, pairing) = (config.rope.rotary_dim, config.rope.pairing);

        // What is computed, and how.
        let append =
            KvAppendProblem { rotary_dim, pairing, ..KvAppendProblem::new(format) }.plan(&caps)?;
        let decode = DecodeProblem {
            rotary_dim,
            pairing,
            rotate_q: true,
            ..DecodeProblem::new(heads.clone(), format, 1, capacity)
        }
        .plan(&caps)?;
        let prefill = AttentionProblem {
            rotary_dim,
            pairing,
            rotate_q: true,
            resumable: options.split_ms.is_some(),
            ..AttentionProblem::over(heads.clone(), format)
        }
        .plan(&caps)?;
        let plans = format!("{append}\n{decode}\n{prefill}");

        // What the engine owns.
        let buffer = |label, size, usage| buffer(&gpu.device, label, size, usage);
        use wgpu::BufferUsages as Usage;
        let row = |heads: u32| 4 * u64::from(chunk) * u64::from(heads) * u64::from(format.head_dim);
        let side = |stored: CacheType| {
            let rows = u64::from(capacity) * u64::from(format.kv_heads);
            buffer("cache", rows * stored.row_bytes(format.head_dim), Usage::STORAGE)
        };
        let caches = (0..config.layers).map(|_| [side(format.k), side(format.v)]).collect();
        let table = config.rope.table(capacity, capacity.into())?;
        let out = row(heads.heads().len() as u32);
        let workspace = decode.workspace_bytes();
        let clock = Clock::new(&gpu);
        let mut on_gpu = Self {
            append: KvAppend::new(&gpu.device, &append)?,
            decode: Decode::new(&gpu.device, &decode)?,
            prefill: Prefill::new(&gpu.device, &prefill)?,
            budget: Budget::UNLIMITED,
            plans,
            caches,
            pages: options.paged.then(|| Pages::new(&gpu.device, capacity / Pages::SIZE)),
            table: (gpu.upload_bytes(table.as_bytes()), table.shape()?),
            lens: [(); 2].map(|()| buffer("length", 4, Usage::STORAGE | Usage::COPY_DST)),
            qkv: buffer(
                "q, k, v",
                row(heads.q_heads() + 2 * format.kv_heads),
                Usage::STORAGE | Usage::COPY_DST,
            ),
            out: buffer("attention", out, Usage::STORAGE | Usage::COPY_SRC),
            workspace: (workspace > 0).then(|| buffer("workspace", workspace, Usage::STORAGE)),
            staging: buffer("staging", out + Clock::BYTES, Usage::MAP_READ | Usage::COPY_DST),
            clock,
            gpu,
            heads,
            format,
            capacity,
            chunk,
            bound: HashMap::new(),
            len: 0,
            rows: 0,
        };
        if let Some(milliseconds) = options.split_ms {
            on_gpu.limit(milliseconds)?;
        }
        Ok(on_gpu)
    }

    /// Times a full prefill call of one layer, and limits the others by what comes of it.
    fn limit(&mut self, milliseconds: f64) -> Result<()> {
        // One row would be decoded.
        let rows = self.chunk.max(2);
        let least = self.prefill.plan().least_budget(&AttentionShape::new(1, rows, self.capacity));
        let calls = self.bind(rows)?;
        let attend = &calls.first().ok_or("a model without layers")?.attend;
        let operations: u64 = attend.parts().filter_map(|part| part.flops()).sum();
        self.gpu.queue.write_buffer(&self.lens[1], 0, &self.capacity.to_le_bytes());
        let mut taken = 0.0;
        // The first run compiles, on some drivers.
        for _ in 0..2 {
            let start = Instant::now();
            self.gpu.run(|encoder| attend.encode(encoder));
            taken = start.elapsed().as_secs_f64() * 1e3;
        }
        let rate = operations as f64 / taken;
        // A budget below one key tile of one workgroup cannot be kept.
        self.budget = Budget::time(milliseconds, rate)?.max(least);
        let calls = self.bind(rows)?;
        let parts = calls.first().map_or(0, |calls| calls.attend.parts().len());
        self.plans += &format!(
            "\nsplit: {rows} rows over {} keys took {taken:.3} ms, and are cut into {parts} dispatches \
             of {milliseconds} ms",
            self.capacity,
        );
        Ok(())
    }

    /// Binds the two calls of every layer for passes of `rows` tokens.
    fn bind(&self, rows: u32) -> Result<Vec<Calls>> {
        let device = &self.gpu.device;
        let (q_heads, kv_heads) = (self.heads.q_heads(), self.format.kv_heads);
        let (dim, all) = (self.format.head_dim, q_heads + 2 * kv_heads);
        let part = |heads, first| -> Result<Tensor<'_>> {
            let layout = Layout::packed([1, heads, rows, dim], all, first)?;
            Ok(Tensor::new(&self.qkv, DType::F32, layout))
        };
        let (q, k) = (part(q_heads, 0)?, part(kv_heads, q_heads)?);
        let v = part(kv_heads, q_heads + kv_heads)?;
        let heads_out = self.heads.heads().len() as u32;
        let out = Tensor::new(&self.out, DType::F32, Layout::bshd([1, heads_out, rows, dim])?);
        let [before, after] = self.lens.each_ref().map(wgpu::Buffer::as_entire_buffer_binding);
        let (table, shape) = &self.table;
        let table = CosSin { binding: table.as_entire_buffer_binding(), shape: *shape };
        // Positions grow with the cache: the kernels take them from the lengths.
        let rotation = Some(Rotation::new(table, Positions::AmongKeys));
        let shape = AttentionShape::new(1, rows, self.capacity);
        // Softmax states between the parts of a call; layers run one after the other.
        let states = match self.prefill.plan().cut(&shape, self.budget)?.workspace_bytes() {
            0 => None,
            size => Some(buffer(device, "states", size, wgpu::BufferUsages::STORAGE)),
        };

        let calls = self.caches.iter().map(|sides| {
            let cache = self.cache(sides)?;
            let append = self.append.bind(
                device,
                &KvAppendShape::new(1, rows),
                &KvAppendBindings {
                    k: k.clone(),
                    v: v.clone(),
                    cache: cache.clone(),
                    lens: before.clone(),
                    rotation: rotation.clone(),
                },
            )?;
            let attend = match rows > 1 {
                true => {
                    let mut bindings =
                        AttentionBindings::over(q.clone(), cache, after.clone(), out.clone());
                    bindings.rotation = rotation.clone();
                    bindings.workspace = states.as_ref().map(|it| it.as_entire_buffer_binding());
                    self.prefill.bind_within(device, &shape, &bindings, self.budget)?
                }
                false => self.decode.bind(
                    device,
                    &DecodeShape { batch: 1, seq_q: rows },
                    &DecodeBindings {
                        q: q.clone(),
                        cache,
                        kv_lens: after.clone(),
                        out: out.clone(),
                        lse: None,
                        rotation: rotation.clone(),
                        bias: None,
                        workspace: self.workspace.as_ref().map(|it| it.as_entire_buffer_binding()),
                    },
                )?,
            };
            Ok(Calls { append, attend })
        });
        calls.collect()
    }

    /// The cache of a layer: one run of rows a head, or pages of them.
    fn cache<'a>(&'a self, sides: &'a [wgpu::Buffer; 2]) -> Result<CacheBindings<'a>> {
        let [planes, rows] = match &self.pages {
            Some(pages) => [pages.count(), Pages::SIZE],
            None => [1, self.capacity],
        };
        let side = |buffer: &'a wgpu::Buffer, stored: CacheType| -> Result<_> {
            let row = stored.row(self.format.head_dim);
            let layout = Layout::bhsd([planes, self.format.kv_heads, rows, row])?;
            Ok(CacheTensor { binding: buffer.as_entire_buffer_binding(), stored, layout })
        };
        Ok(CacheBindings {
            k: side(&sides[0], self.format.k)?,
            v: side(&sides[1], self.format.v)?,
            block_table: self.pages.as_ref().map(|pages| BlockTable {
                binding: pages.buffer.as_entire_buffer_binding(),
                max_pages: pages.count(),
            }),
        })
    }
}

/// A buffer of at least `size` bytes.
fn buffer(
    device: &wgpu::Device,
    label: &str,
    size: u64,
    usage: wgpu::BufferUsages,
) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: size.next_multiple_of(16).max(16),
        usage,
        mapped_at_creation: false,
    })
}

impl Attention for OnGpu {
    fn chunk(&self) -> usize {
        self.chunk as usize
    }

    fn reset(&mut self) -> Result<()> {
        self.len = 0;
        if let Some(pages) = &mut self.pages {
            pages.reset();
        }
        Ok(())
    }

    fn begin(&mut self, rows: usize) -> Result<()> {
        self.rows = rows as u32;
        match &mut self.pages {
            Some(pages) => pages.grow(&self.gpu.queue, self.len, self.rows)?,
            None => check_room(self.capacity, &[self.len], &[self.rows])?,
        }
        if !self.bound.contains_key(&self.rows) {
            self.bound.insert(self.rows, self.bind(self.rows)?);
        }
        // The one thing that changes from pass to pass.
        for (buffer, len) in self.lens.iter().zip([self.len, self.len + self.rows]) {
            self.gpu.queue.write_buffer(buffer, 0, &len.to_le_bytes());
        }
        Ok(())
    }

    fn layer(&mut self, layer: usize, qkv: &Matrix) -> Result<Matrix> {
        let Gpu { device, queue, .. } = &self.gpu;
        let calls = self.bound.get(&self.rows).and_then(|layers| layers.get(layer));
        let calls = calls.ok_or("a layer outside of a pass")?;
        queue.write_buffer(&self.qkv, 0, bytemuck::cast_slice(qkv.data()));

        let parts: Vec<_> = calls.append.parts().chain(calls.attend.parts()).collect();
        let together = if self.budget == Budget::UNLIMITED { parts.len() } else { 1 };
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
        let width = self.heads.heads().len() * self.format.head_dim as usize;
        let mut bytes = 4 * u64::from(self.rows) * width as u64;
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

    fn finish(&mut self) {
        self.len += self.rows;
    }

    fn kernel_time(&self) -> Option<Duration> {
        self.clock.as_ref().map(Clock::total)
    }
}
