//! The buffers of a layer in steady state, and its two calls.

use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheTensor, CacheType};
use phasor::decode::{Decode, DecodeBindings, DecodePlan, DecodeProblem, DecodeShape, Tile};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::{DType, Dispatch, HeadMap, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use crate::Result;

pub const BATCH: u32 = 2;
pub const KV_HEADS: u32 = 2;
pub const DIM: u32 = 32;
pub const PAGE: u32 = 8;
pub const PAGES_EACH: u32 = 6;

/// What a host does on the device between two steps: the sequences grow, the second up to 25 rows,
/// and where one begins a page, it takes one of the pool.
const ADVANCE: &str = "
@group(0) @binding(0) var<storage, read_write> lens: array<u32>;     // [B] before the append
@group(0) @binding(1) var<storage, read_write> kv_lens: array<u32>;  // [B] after it
@group(0) @binding(2) var<storage, read_write> table: array<u32>;    // [B, PAGES_EACH]

@compute @workgroup_size(1)
fn advance() {
    for (var b = 0u; b < 2u; b++) {
        lens[b] = kv_lens[b];
        kv_lens[b] = min(kv_lens[b] + 1u, 40u - 15u * b);
        let page = lens[b] / 8u;
        table[b * 6u + page] = 2u * page + b;
    }
}";

/// A pipeline of wgpu's own, bound.
pub struct Bare {
    pub pipeline: wgpu::ComputePipeline,
    pub group: wgpu::BindGroup,
}

impl Bare {
    pub fn new(gpu: &Gpu, buffers: [&wgpu::Buffer; 3]) -> Self {
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(ADVANCE.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let entries = [0, 1, 2].map(|n| wgpu::BindGroupEntry {
            binding: n,
            resource: buffers[n as usize].as_entire_binding(),
        });
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self { pipeline, group }
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
}

/// The buffers of a layer.
pub struct World {
    pub lens: wgpu::Buffer,
    pub kv_lens: wgpu::Buffer,
    pub table: wgpu::Buffer,
    pub new: wgpu::Buffer,
    pub q: wgpu::Buffer,
    pub out: wgpu::Buffer,
    pub caches: [wgpu::Buffer; 2],
    pub workspace: wgpu::Buffer,
    pub cos_sin: wgpu::Buffer,
    pub format: CacheFormat,
    pub plan: DecodePlan,
}

impl World {
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let (k, v) = (CacheType::F16, CacheType::Int8);
        let format = CacheFormat { k, v, paged: true, ..CacheFormat::new(KV_HEADS, DIM) };
        let heads = HeadMap::ropepp(4)?;
        let mut problem = DecodeProblem::new(heads, format, BATCH, PAGE * PAGES_EACH);
        problem.rotate_q = true;
        let caps = gpu.capabilities();
        // A small tile, which compiles quickly.
        let tile = Tile::new(16, 1, 2);
        let plan = DecodePlan::with_parts(&problem, &caps, tile, 3)?;
        let words = |n: u32| -> Vec<f32> { (0..n).map(|i| (i * 37 % 64) as f32 / 32.0).collect() };
        let capacity = PAGE * PAGES_EACH;
        let cos_sin = RopeConfig::new(DIM, 1e4).table(capacity, capacity.into())?;
        let pool = |stored: CacheType| {
            let row = stored.row_bytes(DIM);
            let rows = u64::from(BATCH * PAGES_EACH * PAGE * KV_HEADS);
            // Slots that were never written are NaN.
            gpu.upload_bytes(&vec![0xff; (rows * row) as usize])
        };
        Ok(Self {
            lens: gpu.upload_u32(&[0; BATCH as usize]),
            kv_lens: gpu.upload_u32(&[0; BATCH as usize]),
            table: gpu.upload_u32(&[u32::MAX; (BATCH * PAGES_EACH) as usize]),
            new: gpu.upload(&words(BATCH * KV_HEADS * DIM), DType::F32),
            q: gpu.upload(&words(BATCH * 4 * DIM), DType::F32),
            out: gpu.output((BATCH * 8 * DIM) as usize, DType::F32),
            caches: [pool(k), pool(v)],
            workspace: gpu
                .output(plan.workspace_bytes(&plan.problem().largest()) as usize / 4, DType::F32),
            cos_sin: gpu.upload_bytes(cos_sin.as_bytes()),
            format,
            plan,
        })
    }

    pub fn kernels(&self, gpu: &Gpu) -> Result<(KvAppend, Decode)> {
        let append = KvAppendProblem::new(self.format).plan(&gpu.capabilities())?;
        Ok((KvAppend::new(&gpu.device, &append)?, Decode::new(&gpu.device, &self.plan)?))
    }

    pub fn bindings(&self) -> Result<(KvAppendBindings<'_>, DecodeBindings<'_>)> {
        let tensor = |buffer, heads| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([BATCH, heads, 1, DIM])?))
        };
        let side = |buffer, stored: CacheType| -> Result<CacheTensor<'_>> {
            let shape = [BATCH * PAGES_EACH, KV_HEADS, PAGE, stored.row(DIM)];
            let binding = wgpu::Buffer::as_entire_buffer_binding(buffer);
            Ok(CacheTensor { binding, stored, layout: Layout::bhsd(shape)? })
        };
        let cache = CacheBindings {
            k: side(&self.caches[0], self.format.k)?,
            v: side(&self.caches[1], self.format.v)?,
            block_table: Some(BlockTable {
                binding: self.table.as_entire_buffer_binding(),
                max_pages: PAGES_EACH,
            }),
        };
        let capacity = PAGE * PAGES_EACH;
        let shape = RopeConfig::new(DIM, 1e4).table(capacity, capacity.into())?.shape()?;
        let cos_sin = CosSin { binding: self.cos_sin.as_entire_buffer_binding(), shape };
        let append = KvAppendBindings {
            k: tensor(&self.new, KV_HEADS)?,
            v: tensor(&self.new, KV_HEADS)?,
            cache: cache.clone(),
            lens: self.lens.as_entire_buffer_binding(),
            rotation: Some(Rotation::new(cos_sin.clone(), Positions::AmongKeys)),
        };
        let decode = DecodeBindings {
            q: tensor(&self.q, 4)?,
            cache,
            kv_lens: self.kv_lens.as_entire_buffer_binding(),
            out: tensor(&self.out, 8)?,
            lse: None,
            rotation: Some(Rotation::new(cos_sin, Positions::AmongKeys)),
            bias: None,
            workspace: Some(self.workspace.as_entire_buffer_binding()),
        };
        Ok((append, decode))
    }

    pub fn bind(&self, gpu: &Gpu, (append, decode): &(KvAppend, Decode)) -> Result<[Dispatch; 2]> {
        let (appended, decoded) = self.bindings()?;
        Ok([
            append.bind(&gpu.device, &APPEND, &appended)?,
            decode.bind(&gpu.device, &DECODE, &decoded)?,
        ])
    }
}

pub const APPEND: KvAppendShape = KvAppendShape { batch: BATCH, seq: 1, ragged: None };
pub const DECODE: DecodeShape = DecodeShape { batch: BATCH, seq_q: 1 };
