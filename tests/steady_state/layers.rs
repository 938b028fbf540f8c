//! The layer API in steady state: a step beside the same calls bound by hand.

use std::time::Instant;

use phasor::cache::CacheType;
use phasor::decode::{DecodeBindings, DecodeShape};
use phasor::kv_append::{KvAppendBindings, KvAppendShape};
use phasor::layers::{Layer, Layers, Model, Rows, Sequence};
use phasor::rotary::{Positions, RopeConfig};
use phasor::{DType, Dispatch, HeadMap, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use crate::{BATCH, DIM, KV_HEADS, Result, STEPS, WARM, allocations};

const LAYERS: usize = 8;
/// Rows of a sequence: as many as all steps append.
const CAPACITY: u32 = 64;

/// A model, its sequences, and what the host owns.
struct Engine {
    layers: Layers,
    sequences: [(Sequence, u32); BATCH as usize],
    qkv: wgpu::Buffer,
    out: wgpu::Buffer,
    /// Lengths of the calls that are bound by hand.
    lens: [wgpu::Buffer; 2],
}

impl Engine {
    fn new(gpu: &Gpu, rows: Rows) -> Result<Self> {
        let layer = Layer::new(HeadMap::ropepp(4)?, KV_HEADS, RopeConfig::new(DIM, 1e4))
            .stored(CacheType::F16, CacheType::Int8);
        // Only tokens: no prefill is compiled.
        let model =
            Model { rows, decode_rows: 2, ..Model::new(vec![layer; LAYERS], BATCH, CAPACITY) };
        let model = Model { max_rows: BATCH, ..model };
        let mut layers = Layers::new(&gpu.device, &model.plan(&gpu.capabilities())?)?;
        let words = |n: u32| -> Vec<f32> { (0..n).map(|i| (i * 37 % 64) as f32 / 32.0).collect() };
        let qkv = gpu.upload(&words(BATCH * (4 + 2 * KV_HEADS) * DIM), DType::F32);
        let out = gpu.output((BATCH * 8 * DIM) as usize, DType::F32);
        for layer in 0..LAYERS {
            let [qkv, out] = [&qkv, &out].map(wgpu::Buffer::as_entire_buffer_binding);
            layers.bind_packed(layer, qkv, out)?;
        }
        let sequences = [(layers.start()?, 1), (layers.start()?, 1)];
        let lens = [(); 2].map(|()| gpu.upload_u32(&[0; BATCH as usize]));
        Ok(Self { layers, sequences, qkv, out, lens })
    }

    /// The same two calls, bound by hand to the same cache.
    fn by_hand(&self, gpu: &Gpu, layer: usize) -> Result<[Dispatch; 2]> {
        let kernels = self.layers.kernels(layer)?;
        let part = |heads, first| -> Result<Tensor<'_>> {
            let layout = Layout {
                shape: [BATCH, heads, 1, DIM],
                strides: [(4 + 2 * KV_HEADS) * DIM, DIM, (4 + 2 * KV_HEADS) * DIM],
                offset: first * DIM,
            };
            Ok(Tensor::new(&self.qkv, DType::F32, layout))
        };
        let table = self.layers.table(layer)?.ok_or("no table")?;
        let rotation = Some((table, Positions::AmongKeys));
        let [before, after] = self.lens.each_ref().map(wgpu::Buffer::as_entire_buffer_binding);
        let append = kernels.append.bind(
            &gpu.device,
            &KvAppendShape::new(BATCH, 1),
            &KvAppendBindings {
                k: part(KV_HEADS, 4)?,
                v: part(KV_HEADS, 4 + KV_HEADS)?,
                cache: self.layers.cache(layer)?,
                lens: before,
                rotation: rotation.clone(),
            },
        )?;
        let out = Tensor::new(&self.out, DType::F32, Layout::bhsd([BATCH, 8, 1, DIM])?);
        let decode = kernels.decode.bind(
            &gpu.device,
            &DecodeShape { batch: BATCH, seq_q: 1 },
            &DecodeBindings {
                q: part(4, 0)?,
                cache: self.layers.cache(layer)?,
                kv_lens: after,
                out,
                lse: None,
                rotation,
                bias: None,
                workspace: None,
            },
        )?;
        Ok([append, decode])
    }

    /// One step into one pass; allocations of `advance`, and of all that is recorded.
    fn step(&mut self, gpu: &Gpu) -> Result<[[usize; 2]; 2]> {
        let mut refused = Ok(());
        let advance = allocations(|| refused = self.layers.advance(&gpu.queue, &self.sequences));
        refused?;
        let mut record = [0; 2];
        let mut refused = Ok(());
        gpu.run(|encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            record = allocations(|| {
                refused = (0..LAYERS).try_for_each(|n| self.layers.record(n, &mut pass));
            });
        });
        refused?;
        Ok([advance, record])
    }
}

pub fn a_step_creates_and_allocates_nothing() -> Result {
    let gpu = Gpu::new()?;
    for rows in [Rows::Contiguous, Rows::Paged { page_size: CAPACITY, pages: BATCH }] {
        let mut engine = Engine::new(&gpu, rows)?;
        let objects = || gpu.instance.generate_report().map(|report| format!("{report:?}"));
        for _ in 0..WARM {
            engine.step(&gpu)?;
        }
        // As much of wgpu's own: one write of as many bytes as lengths take, as many dispatches.
        let calls = [engine.by_hand(&gpu, 0)?, engine.by_hand(&gpu, 1)?];
        let before = objects();
        assert!(before.is_some(), "an instance that does not count its objects proves nothing");
        for step in WARM..WARM + STEPS {
            let write = allocations(|| gpu.queue.write_buffer(&engine.lens[0], 0, &[0; 8]));
            let mut bare = [0; 2];
            gpu.run(|encoder| {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                // By turns: what is set already, wgpu does not record.
                let mut all = || {
                    let calls = (0..LAYERS).flat_map(|n| &calls[n % 2]);
                    calls.for_each(|call| call.record(&mut pass));
                };
                bare = allocations(&mut all);
            });
            let [advance, record] = engine.step(&gpu)?;
            assert!(advance <= write, "{rows:?} step {step}: advance {advance:?}, wgpu {write:?}");
            assert!(record <= bare, "{rows:?} step {step}: {record:?}, wgpu {bare:?}");
        }
        assert_eq!(objects(), before, "a step left an object behind, or took one");
    }
    Ok(())
}

/// Host time of a layer and step beyond the same calls bound by hand, `advance` and the writes of
/// lengths shared out; the least of some rounds.
pub fn a_step_takes_no_time_of_its_own() -> Result {
    const CALLS: u32 = 40;
    let gpu = Gpu::new()?;
    let mut engine = Engine::new(&gpu, Rows::Contiguous)?;
    let by_hand = (0..LAYERS).map(|n| engine.by_hand(&gpu, n)).collect::<Result<Vec<_>>>()?;
    let per_layer = 1e6 / (f64::from(CALLS) * LAYERS as f64);
    let mut least = [f64::INFINITY; 2];
    for _ in 0..30 {
        for (sequence, _) in engine.sequences {
            engine.layers.truncate(sequence, 0)?;
        }
        // Recorded and dropped: the time is the host's alone.
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        let start = Instant::now();
        for _ in 0..CALLS {
            engine.layers.advance(&gpu.queue, &engine.sequences)?;
            for layer in 0..LAYERS {
                engine.layers.record(layer, &mut pass)?;
            }
        }
        least[0] = least[0].min(start.elapsed().as_secs_f64() * per_layer);
        drop(pass);
        gpu.queue.submit([]);
        gpu.device.poll(wgpu::PollType::wait_indefinitely())?;

        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        let start = Instant::now();
        for step in 0..CALLS {
            for (lens, len) in engine.lens.iter().zip([step, step + 1]) {
                gpu.queue.write_buffer(lens, 0, bytemuck::cast_slice(&[len; BATCH as usize]));
            }
            by_hand.iter().flatten().for_each(|call| call.record(&mut pass));
        }
        least[1] = least[1].min(start.elapsed().as_secs_f64() * per_layer);
        drop(pass);
        gpu.queue.submit([]);
        gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
    }
    let [ours, bare] = least;
    println!("{ours:.2} us a layer and step, of which calls bound by hand take {bare:.2} us");
    assert!(ours - bare < 2.0, "{ours} us a layer and step, where by hand it is {bare} us");
    Ok(())
}
