//! Two sequences that share a prefix, in a paged cache: the prefix is appended once, both block
//! tables name its pages, and each sequence goes on with a page of its own.
//!
//! ```sh
//! cargo run --release --example paged
//! ```
//!
//! `phasor::layers` keeps such tables for a whole model; this is what lies under it.

use phasor::cache::{BlockTable, CacheBindings, CacheFormat, CacheTensor, CacheType, Pages};
use phasor::decode::{Decode, DecodeBindings, DecodeProblem, DecodeShape};
use phasor::kv_append::{KvAppend, KvAppendBindings, KvAppendProblem, KvAppendShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation};
use phasor::wgpu::{BufferUsages as Usage, util, util::DeviceExt as _};
use phasor::{Capabilities, DType, HeadMap, Layout, Tensor, wgpu};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const DIM: u32 = 64;
const PAGE: u32 = 16;
const MAX_PAGES: u32 = 4;
const CAPACITY: u32 = PAGE * MAX_PAGES;
/// Three whole pages: what is shared is never written to again.
const PREFIX: u32 = 3 * PAGE;
/// The pages of both sequences, out of a pool of eight.
const TABLE: [u32; 8] = [7, 2, 5, 0, 7, 2, 5, 3];

fn main() -> Result<()> {
    let adapter = wgpu::Instance::default().request_adapter(&Default::default());
    let adapter = pollster::block_on(adapter)?;
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
    let buffer = |contents: &[u8]| {
        let usage = Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
        device.create_buffer_init(&util::BufferInitDescriptor { label: None, contents, usage })
    };
    let floats = |len: u32, step: f32| {
        let wave: Vec<f32> = (0..len).map(|i| (i as f32 * step).sin()).collect();
        buffer(bytemuck::cast_slice(&wave))
    };

    // The pool, its table, and the kernels.
    let caps = Capabilities::of(&device);
    let format = CacheFormat { paged: true, ..CacheFormat::new(KV_HEADS, DIM) };
    let append = KvAppend::new(&device, &KvAppendProblem::new(format).plan(&caps)?)?;
    let problem = DecodeProblem::new(HeadMap::ropepp(HEADS)?, format, 2, CAPACITY);
    let plan = DecodeProblem { rotate_q: true, ..problem }.plan(&caps)?;
    println!("{}\n{plan}", adapter.get_info().name);
    let decode = Decode::new(&device, &plan)?;
    let layout = Layout::bhsd([8, KV_HEADS, PAGE, DIM])?; // [pages, H_kv, page, D]
    let pools = [(); 2].map(|()| floats(layout.elements() as u32, 0.0));
    let table = buffer(bytemuck::cast_slice(&TABLE));
    let cache = || {
        let [k, v] = pools.each_ref().map(|pool| CacheTensor {
            binding: pool.as_entire_buffer_binding(),
            stored: CacheType::F32,
            layout,
        });
        let table = BlockTable { binding: table.as_entire_buffer_binding(), max_pages: MAX_PAGES };
        CacheBindings { k, v, block_table: Some(table) }
    };
    let cos_sin = RopeConfig::new(DIM, 1e4).table(CAPACITY, CAPACITY.into())?;
    let (angles, shape) = (buffer(cos_sin.as_bytes()), cos_sin.shape()?);
    let rotation = || {
        let table = CosSin { binding: angles.as_entire_buffer_binding(), shape };
        Some(Rotation::new(table, Positions::AmongKeys))
    };

    // Appends `rows` new rows of `batch` sequences; `lens` says how many each has already.
    let appends = |[k, v]: [&wgpu::Buffer; 2], batch, rows, lens: &wgpu::Buffer| -> Result<_> {
        let layout = Layout::bhsd([batch, KV_HEADS, rows, DIM])?;
        let [k, v] = [k, v].map(|buffer| Tensor::new(buffer, DType::F32, layout));
        let bindings = KvAppendBindings::new(k, v, cache(), lens.as_entire_buffer_binding());
        let bindings = KvAppendBindings { rotation: rotation(), ..bindings };
        Ok(append.bind(&device, &KvAppendShape::new(batch, rows), &bindings)?)
    };
    // The prefix, once, through the table of the first sequence.
    let [k, v] = [0.37, 0.73].map(|step| floats(KV_HEADS * PREFIX * DIM, step));
    let prefix = appends([&k, &v], 1, PREFIX, &buffer(&[0; 16]))?;
    // The steps: a token of each sequence, bound once; only the lengths change.
    let [k, v] = [0.19, 0.91].map(|step| floats(2 * KV_HEADS * DIM, step));
    let (q, out) = (floats(2 * HEADS * DIM, 0.53), floats(2 * 2 * HEADS * DIM, 0.0));
    let [before, after] = [(); 2].map(|()| buffer(&[0; 16]));
    let token = appends([&k, &v], 2, 1, &before)?;
    let tensor = |buffer, heads| -> Result<Tensor<'_>> {
        Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([2, heads, 1, DIM])?))
    };
    let shape_of_step = DecodeShape::new(2, 1);
    let workspace = floats(plan.workspace_bytes(&shape_of_step).max(16) as u32 / 4, 0.0);
    let (q, kv_lens) = (tensor(&q, HEADS)?, after.as_entire_buffer_binding());
    let bindings = DecodeBindings::new(q, cache(), kv_lens, tensor(&out, 2 * HEADS)?);
    let workspace = plan.merge().map(|_| workspace.as_entire_buffer_binding());
    let bindings = DecodeBindings { rotation: rotation(), workspace, ..bindings };
    let attend = decode.bind(&device, &shape_of_step, &bindings)?;

    // A host that knows its tables asks before it writes: shared pages are not written to.
    let pages = Pages { table: &TABLE, max_pages: MAX_PAGES, pages: 8, page_size: PAGE };
    if let Err(refused) = pages.check_append(&[PREFIX - 1; 2], &[1; 2]) {
        println!("a write into the prefix is refused: {refused}");
    }
    let mut encoder = device.create_command_encoder(&Default::default());
    prefix.encode(&mut encoder);
    queue.submit([encoder.finish()]);
    for step in 0..5 {
        let lens = [PREFIX + step; 2];
        pages.check_append(&lens, &[1; 2])?;
        queue.write_buffer(&before, 0, bytemuck::cast_slice(&lens));
        queue.write_buffer(&after, 0, bytemuck::cast_slice(&lens.map(|len| len + 1)));
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        token.record(&mut pass);
        attend.record(&mut pass);
        drop(pass);
        queue.submit([encoder.finish()]);

        let (sender, receiver) = std::sync::mpsc::channel();
        util::DownloadBuffer::read_buffer(&device, &queue, &out.slice(..), move |read| {
            let _ = sender.send(read);
        });
        device.poll(wgpu::PollType::wait_indefinitely())?;
        let read = receiver.recv()??;
        let rows: Vec<_> = bytemuck::cast_slice::<u8, f32>(&read).chunks(DIM as usize).collect();
        let [first, second] = [rows[0], rows[2 * HEADS as usize]].map(|row| &row[..3]);
        println!("{} keys: head 0 of both: {first:.4?} ..., {second:.4?} ...", lens[0] + 1);
    }
    let [shared, alone] = [5, 8].map(|pages| pages * u64::from(PAGE) * format.bytes_per_token());
    println!("{shared} bytes of pages in use; without sharing {alone}");
    Ok(())
}
