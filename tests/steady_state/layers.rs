//! Steps of the layer API beside the same calls bound by hand over the same caches: as many
//! allocations, the same bits, and no time to speak of on top.

use std::time::Instant;

use phasor::decode::{DecodeBindings, DecodeShape};
use phasor::kv_append::{KvAppendBindings, KvAppendShape};
use phasor::layers::{Layer, LayerBindings, Layers, Model, Rows, Sequence};
use phasor::rotary::{Positions, RopeConfig, Rotation};
use phasor::{DType, Dispatch, HeadMap, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use crate::world::{DIM, KV_HEADS, PAGE};
use crate::{Result, STEPS, WARM, allocations};

const LAYERS: usize = 12;
const SEQUENCES: u32 = 2;
const CAPACITY: u32 = 48;
/// Byte of the lengths after the append in the buffer of the calls bound by hand.
const AFTER: u64 = 256;

/// A model in steady state, and its calls bound by hand.
struct World {
    gpu: Gpu,
    layers: Layers,
    sequences: [Sequence; SEQUENCES as usize],
    out: wgpu::Buffer,
    by_hand: Vec<[Dispatch; 2]>,
    lengths: wgpu::Buffer,
    /// What a table of the calls bound by hand would be written to.
    table: wgpu::Buffer,
}

/// Rows of every sequence in q, k, v and out, heads outside, and the same by sequences.
fn layouts(heads: u32) -> Result<[Layout; 2]> {
    let all = Layout::bhsd([1, heads, SEQUENCES, DIM])?;
    let shape = [SEQUENCES, heads, 1, DIM];
    Ok([all, Layout { shape, strides: [DIM, SEQUENCES * DIM, DIM], offset: 0 }])
}

impl World {
    fn new(rows: Rows) -> Result<Self> {
        let gpu = Gpu::new()?;
        let (heads, rope) = (HeadMap::ropepp(4)?, RopeConfig::new(DIM, 1e4));
        let layer = Layer::new(heads, KV_HEADS, rope);
        let model = Model::new(vec![layer; LAYERS], SEQUENCES, CAPACITY);
        let model = Model { max_rows: SEQUENCES, rows, decode_rows: 2, ..model };
        let plan = model.plan(&gpu.capabilities())?;
        let mut layers = Layers::new(&gpu.device, &plan)?;
        let data = |heads: u32| -> Vec<f32> {
            (0..heads * SEQUENCES * DIM).map(|i| (i * 37 % 64) as f32 / 32.0).collect()
        };
        let [q, k, v, out] =
            [4, KV_HEADS, KV_HEADS, 8].map(|heads| gpu.upload(&data(heads), DType::F32));
        let tensor = |buffer, heads, way: usize| -> Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, layouts(heads)?[way]))
        };
        for layer in 0..LAYERS {
            let (k, v) = (tensor(&k, KV_HEADS, 0)?, tensor(&v, KV_HEADS, 0)?);
            let bindings = LayerBindings::new(tensor(&q, 4, 0)?, k, v, tensor(&out, 8, 0)?);
            layers.bind(layer, &bindings)?;
        }
        let sequences = [layers.start()?, layers.start()?];

        let lengths = gpu.upload_bytes(&[0; AFTER as usize + 8]);
        let range = |offset| wgpu::BufferBinding {
            buffer: &lengths,
            offset,
            size: wgpu::BufferSize::new(8),
        };
        let workspace = gpu.upload_bytes(&vec![0; plan.bytes().workspace as usize]);
        let mut by_hand = Vec::new();
        for layer in 0..LAYERS {
            let kernels = layers.kernels(layer)?;
            let rotation = layers.table(layer)?.map(|it| Rotation::new(it, Positions::AmongKeys));
            let append = KvAppendBindings {
                k: tensor(&k, KV_HEADS, 1)?,
                v: tensor(&v, KV_HEADS, 1)?,
                cache: layers.cache(layer)?,
                lens: range(0),
                rotation: rotation.clone(),
            };
            let (q, out) = (tensor(&q, 4, 1)?, tensor(&out, 8, 1)?);
            let mut decode = DecodeBindings::new(q, layers.cache(layer)?, range(AFTER), out);
            decode.rotation = rotation;
            decode.workspace =
                (kernels.decode.plan().workspace_bytes(&kernels.decode.plan().problem().largest())
                    > 0)
                .then(|| workspace.as_entire_buffer_binding());
            let shapes = (KvAppendShape::new(SEQUENCES, 1), DecodeShape::new(SEQUENCES, 1));
            by_hand.push([
                kernels.append.bind(&gpu.device, &shapes.0, &append)?,
                kernels.decode.bind(&gpu.device, &shapes.1, &decode)?,
            ]);
        }
        let table = gpu.upload_u32(&[0; 2 * (CAPACITY / PAGE) as usize]);
        Ok(Self { layers, sequences, out, by_hand, lengths, table, gpu })
    }

    fn rows(&self) -> Result<u32> {
        Ok(self.layers.rows(self.sequences[0])?)
    }

    /// A step, and what its host side took, measured by `measure`.
    fn step<T>(&mut self, measure: impl Fn(&mut dyn FnMut()) -> T) -> Result<[T; 2]> {
        let (layers, mut failed) = (&mut self.layers, Ok(()));
        let rows = self.sequences.map(|sequence| (sequence, 1));
        let begun = measure(&mut || failed = layers.advance(&self.gpu.queue, &rows));
        failed?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let mut failed = Ok(());
        let encoded = measure(&mut || {
            for layer in 0..LAYERS {
                failed = failed.clone().and(layers.encode(layer, &mut encoder));
            }
        });
        failed?;
        self.submit(encoder)?;
        Ok([begun, encoded])
    }

    /// The step that was taken last once more, by hand.
    fn step_by_hand<T>(&self, measure: impl Fn(&mut dyn FnMut()) -> T) -> Result<[T; 2]> {
        let rows = self.rows()?;
        let mut lengths = [0u32; AFTER as usize / 4 + 2];
        lengths[..2].fill(rows - 1);
        lengths[AFTER as usize / 4..].fill(rows);
        let queue = &self.gpu.queue;
        // A paged cache takes another page every few rows, which its table says.
        let paged = self.layers.free_pages().is_some() && (rows - 1).is_multiple_of(PAGE);
        let begun = measure(&mut || {
            queue.write_buffer(&self.lengths, 0, bytemuck::cast_slice(&lengths));
            if paged {
                let table = [0u32; 2 * (CAPACITY / PAGE) as usize];
                queue.write_buffer(&self.table, 0, bytemuck::cast_slice(&table));
            }
        });
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let encoded = measure(&mut || {
            for calls in &self.by_hand {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                calls.iter().for_each(|call| call.record(&mut pass));
            }
        });
        self.submit(encoder)?;
        Ok([begun, encoded])
    }

    fn submit(&self, encoder: wgpu::CommandEncoder) -> Result {
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }

    fn output(&self) -> Vec<u8> {
        self.gpu.download_bytes(&self.out)
    }
}

/// A step makes no GPU object, and allocates what wgpu alone does for it.
pub(crate) fn a_step_creates_and_allocates_nothing() -> Result {
    for rows in [Rows::Contiguous, Rows::Paged { page_size: PAGE, pages: 12 }] {
        let mut world = World::new(rows)?;
        let objects = |gpu: &Gpu| gpu.instance.generate_report().map(|it| format!("{it:?}"));
        for _ in 0..WARM {
            world.step(|run| run())?;
            world.step_by_hand(|run| run())?;
        }
        let before = objects(&world.gpu);
        assert!(before.is_some(), "an instance that does not count its objects proves nothing");
        let mut counts = [Vec::new(), Vec::new()];
        for _ in 0..STEPS {
            counts[0].push(world.step(allocations)?);
            counts[1].push(world.step_by_hand(allocations)?);
        }
        assert_eq!(objects(&world.gpu), before, "a step left an object behind, or took one");
        assert_eq!(counts[0], counts[1], "a step allocates what wgpu alone does not");

        world.step(|run| run())?;
        let ours = world.output();
        world.gpu.queue.write_buffer(&world.out, 0, &vec![0xff; ours.len()]);
        world.step_by_hand(|run| run())?;
        assert_eq!(world.output(), ours, "not the bits of the calls bound by hand");
    }
    Ok(())
}

/// Host time of a step beyond that of the same calls bound by hand.
pub(crate) fn a_step_takes_no_time_of_its_own() -> Result {
    let mut world = World::new(Rows::Contiguous)?;
    let clock = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64() * 1e6
    };
    let mut least = [[f64::INFINITY; 2]; 2];
    for _ in 0..8 {
        for _ in 0..CAPACITY - 8 {
            for (least, taken) in
                least.iter_mut().zip([world.step(clock)?, world.step_by_hand(clock)?])
            {
                least.iter_mut().zip(taken).for_each(|(least, taken)| *least = least.min(taken));
            }
        }
        for sequence in world.sequences {
            world.layers.truncate(sequence, 0)?;
        }
    }
    let [ours, by_hand] = least;
    let more = (ours[0] + ours[1] - by_hand[0] - by_hand[1]) / LAYERS as f64;
    println!(
        "a step of {LAYERS} layers: advance {:.1} us and encode {:.1} us; by hand {:.1} us and \
         {:.1} us: {more:.2} us a layer",
        ours[0], ours[1], by_hand[0], by_hand[1]
    );
    assert!(more <= 1.0, "{more} us a layer and step on top of the calls");
    Ok(())
}
