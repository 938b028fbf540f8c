//! Faults: a device that is lost or has no memory, buffers that are gone or mapped, threads. What a
//! caller gets is a typed error, or wgpu's own in its error scope, handler or callback; never a
//! panic of this crate's, and never silence.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use phasor::attention::{Attention, AttentionPlan};
use phasor::decode::{Decode, DecodePlan};
use phasor::kv_append::{KvAppend, KvAppendPlan};
use phasor::kv_move::{KvMove, KvMovePlan};
use phasor::linear_attention::{LinearAttention, LinearAttentionPlan};
use phasor::merge::{Merge, MergePlan};
use phasor::rope::{Rope, RopeBindings, RopePlan, RopeProblem, RopeShape};
use phasor::rotary::{CosSin, Positions, RopeConfig, Rotation, TableShape};
use phasor::scores::{Scores, ScoresPlan};
use phasor::{Capabilities, Compiler, DType, Dispatch, Error, Layout, Tensor, wgpu};
use phasor_kit::gpu::Gpu;

use crate::harness::{every_kernel, lab};

/// A rotation of 4 vectors of 8 channels: the cheapest call that there is.
struct Small {
    kernel: Rope,
    q: wgpu::Buffer,
    out: wgpu::Buffer,
    table: wgpu::Buffer,
    shape: TableShape,
}

impl Small {
    fn new(gpu: &Gpu) -> phasor::Result<Self> {
        let table = RopeConfig::new(8, 10_000.0).table(8, 8)?;
        let plan = RopeProblem::new(1, 0, 8).plan(&gpu.capabilities())?;
        Ok(Self {
            kernel: Rope::new(&gpu.device, &plan)?,
            q: gpu.upload(&(0..32).map(|n| n as f32).collect::<Vec<_>>(), DType::F32),
            out: gpu.output(32, DType::F32),
            table: gpu.upload_bytes(table.as_bytes()),
            shape: table.shape()?,
        })
    }

    fn bind(&self, gpu: &Gpu, out: &wgpu::Buffer) -> phasor::Result<Dispatch> {
        let tensor = |buffer| -> phasor::Result<Tensor<'_>> {
            Ok(Tensor::new(buffer, DType::F32, Layout::bhsd([1, 1, 4, 8])?))
        };
        let table = CosSin { binding: self.table.as_entire_buffer_binding(), shape: self.shape };
        let bindings = RopeBindings {
            q: tensor(&self.q)?,
            k: None,
            q_out: Some(tensor(out)?),
            k_out: None,
            rotation: Rotation::new(table, Positions::From(1)),
        };
        self.kernel.bind(&gpu.device, &RopeShape { batch: 1, seq: 4 }, &bindings)
    }
}

/// A device that no other test has. Holding the shared one first keeps turns on OpenGL.
fn own() -> Gpu {
    lab();
    Gpu::new().unwrap()
}

/// What wgpu says to validation of `f`.
fn validation(gpu: &Gpu, f: impl FnOnce()) -> Option<wgpu::Error> {
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    f();
    pollster::block_on(scope.pop())
}

/// As wgpu's own types are.
#[test]
fn types_are_send_and_sync() {
    const fn both<T: Send + Sync>() {}
    const _: () = {
        both::<Attention>();
        both::<Decode>();
        both::<KvAppend>();
        both::<KvMove>();
        both::<LinearAttention>();
        both::<Merge>();
        both::<Rope>();
        both::<Scores>();
        both::<Dispatch>();
        both::<Tensor<'static>>();
        both::<RopeBindings<'static>>();
        both::<Capabilities>();
        both::<Error>();
        both::<AttentionPlan>();
        both::<DecodePlan>();
        both::<KvAppendPlan>();
        both::<KvMovePlan>();
        both::<LinearAttentionPlan>();
        both::<MergePlan>();
        both::<RopePlan>();
        both::<ScoresPlan>();
    };
}

#[test]
fn threads_bind_and_record_at_once() {
    let gpu = &lab().gpu;
    let small = Small::new(gpu).unwrap();
    let wanted = {
        let call = small.bind(gpu, &small.out).unwrap();
        gpu.run(|encoder| call.encode(encoder));
        gpu.download_bytes(&small.out)
    };
    assert!(!gpu.download(&small.out, DType::F32)[..32].iter().any(|x| x.is_nan()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let out = gpu.output(32, DType::F32);
                let mut calls = Vec::new();
                for _ in 0..20 {
                    let call = small.bind(gpu, &out).unwrap();
                    gpu.run(|encoder| call.encode(encoder));
                    calls.push(call);
                }
                gpu.run(|encoder| calls.iter().for_each(|call| call.encode(encoder)));
                assert_eq!(gpu.download_bytes(&out), wanted);
            });
        }
    });
}

#[test]
fn a_lost_device_is_a_typed_error() {
    let gpu = own();
    let small = Small::new(&gpu).unwrap();
    let call = small.bind(&gpu, &small.out).unwrap();
    let lost = Arc::new(AtomicUsize::new(0));
    let counter = lost.clone();
    gpu.device.set_device_lost_callback(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let reported = Arc::new(AtomicUsize::new(0));
    let counter = reported.clone();
    gpu.device.on_uncaptured_error(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    // In the middle: work is on its way, and more is recorded.
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    call.encode(&mut encoder);
    gpu.queue.submit([encoder.finish()]);
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    call.encode(&mut encoder);
    gpu.device.destroy();
    call.encode(&mut encoder);
    gpu.queue.submit([encoder.finish()]);
    let _ = gpu.device.poll(wgpu::PollType::wait_indefinitely());
    assert_eq!(lost.load(Ordering::SeqCst), 1, "the lost callback is wgpu's to call");

    let again = small.bind(&gpu, &small.out);
    assert!(matches!(again, Err(Error::Device { .. })), "{again:?}");
    let before = reported.load(Ordering::SeqCst);
    let caps = gpu.capabilities();
    for (name, compile) in every_kernel(Compiler::new(&gpu.device), &caps) {
        let result = compile();
        assert!(matches!(result, Err(Error::Device { .. })), "{name}: {result:?}");
    }
    // A lost device is no mistake of the caller's: nothing was asked of it that wgpu had to refuse.
    assert_eq!(reported.load(Ordering::SeqCst), before);
}

/// A device under the smallest budget that one can be made under, its memory then used up.
fn full() -> Option<(Gpu, Vec<wgpu::Buffer>)> {
    lab();
    let gpu = (1..=100).find_map(|share| {
        let thresholds = wgpu::MemoryBudgetThresholds {
            for_resource_creation: Some(share),
            for_device_loss: None,
        };
        Gpu::with_budget(thresholds).ok()
    })?;
    let mut held = Vec::new();
    for size in (8..=28).rev().map(|bits| 1u64 << bits) {
        let mut refused = false;
        for _ in 0..64 {
            let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM,
                mapped_at_creation: size < 1 << 16,
            });
            refused = pollster::block_on(scope.pop()).is_some();
            if refused {
                break;
            }
            held.push(buffer);
        }
        if !refused {
            return None;
        }
    }
    Some((gpu, held))
}

#[test]
fn no_memory_is_a_typed_error() {
    let Some((gpu, held)) = full() else {
        // Only Vulkan and DX12 keep a budget, and not every driver of theirs tells one.
        println!("{:?} refuses no buffer here: nothing to test", lab().gpu.info.backend);
        return;
    };
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let caps = gpu.capabilities();
    let results = every_kernel(Compiler::new(&gpu.device), &caps).map(|(name, f)| (name, f()));
    let error = pollster::block_on(scope.pop());
    assert!(matches!(error, Some(wgpu::Error::OutOfMemory { .. })), "{error:?}");
    for (name, result) in results {
        assert!(matches!(result, Err(Error::Device { .. })), "{name}: {result:?}");
    }
    drop(held);
}

/// A workspace (here: an output) that could not be made says so when it is made and when it is
/// bound.
#[test]
fn buffers_that_could_not_be_made_are_reported() {
    let gpu = own();
    let small = Small::new(&gpu).unwrap();
    let mut made = None;
    let error = validation(&gpu, || {
        made = Some(gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: gpu.device.limits().max_buffer_size + 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        }));
    });
    assert!(error.is_some());
    let out = made.unwrap();
    let mut result = None;
    let error = validation(&gpu, || result = Some(small.bind(&gpu, &out)));
    assert!(error.is_some() || result.unwrap().is_err());
}

#[test]
fn destroyed_and_mapped_buffers_are_reported() {
    let gpu = own();
    let small = Small::new(&gpu).unwrap();
    let buffer = |mapped| {
        gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 256,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: mapped,
        })
    };
    // Gone before it is bound, and between bind and submit.
    let gone = buffer(false);
    gone.destroy();
    assert!(validation(&gpu, || drop(small.bind(&gpu, &gone))).is_some());
    let going = buffer(false);
    let call = small.bind(&gpu, &going).unwrap();
    going.destroy();
    assert!(validation(&gpu, || gpu.run(|encoder| call.encode(encoder))).is_some());
    // Mapped: may be bound, may not be submitted, and may be after it is unmapped.
    let mapped = buffer(true);
    let call = small.bind(&gpu, &mapped).unwrap();
    assert!(validation(&gpu, || gpu.run(|encoder| call.encode(encoder))).is_some());
    mapped.unmap();
    assert!(validation(&gpu, || gpu.run(|encoder| call.encode(encoder))).is_none());
    // And the kernel is as good as before.
    let call = small.bind(&gpu, &small.out).unwrap();
    gpu.run(|encoder| call.encode(encoder));
    assert!(!gpu.download(&small.out, DType::F32)[..32].iter().any(|x| x.is_nan()));
}

/// The caller's handler hears of what wgpu refuses: this crate has no scope and no handler between.
#[test]
fn no_validation_error_is_swallowed() {
    let gpu = own();
    let small = Small::new(&gpu).unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    gpu.device.on_uncaptured_error(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    small.out.destroy();
    let call = small.bind(&gpu, &small.out).unwrap();
    assert_eq!(heard.load(Ordering::SeqCst), 1, "of the bind group");
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    call.encode(&mut encoder);
    let _ = encoder.finish();
    assert_eq!(heard.load(Ordering::SeqCst), 2, "of the commands");
}
