//! A decode loop in steady state: everything that changes from step to step (lengths, positions,
//! block table) changes on the device, so a step binds nothing, plans nothing, creates no GPU
//! object and allocates nothing on the host but what wgpu's own recording does.
//!
//! A binary of its own, since it counts every allocation of the process, and so of one test.

mod layers;
mod world;

use std::alloc::System;

use phasor::decode::DecodeShape;
use phasor::recipe::Plan as _;
use phasor::{Dispatch, KernelKind, wgpu};
use phasor_kit::gpu::Gpu;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use world::{APPEND, Bare, DECODE, World};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Steps that warm up: drivers compile at the first ones.
const WARM: u32 = 3;
const STEPS: u32 = 30;

/// Allocations and growths of allocations during `f`.
fn allocations(f: &mut dyn FnMut()) -> [usize; 2] {
    let region = Region::new(COUNTED);
    f();
    let change = region.change();
    [change.allocations, change.reallocations]
}

/// The kernels that the step records, and why others are not.
const KERNELS: [(KernelKind, std::result::Result<(), &str>); KernelKind::ALL.len()] = {
    const SAME: &str = "recorded by the same code, which does not know of which kernel it is";
    [
        (KernelKind::Attention, Err(SAME)),
        (KernelKind::AttentionBackward, Err(SAME)),
        (KernelKind::Decode, Ok(())),
        (KernelKind::KvAppend, Ok(())),
        (KernelKind::KvMove, Err(SAME)),
        (KernelKind::LinearAttention, Err(SAME)),
        (KernelKind::LinearAttentionBackward, Err(SAME)),
        (KernelKind::Merge, Ok(())),
        (KernelKind::Rope, Err(SAME)),
        (KernelKind::Scores, Err(SAME)),
    ]
};

#[test]
fn a_step_costs_the_host_nothing() -> Result {
    a_step_creates_and_allocates_nothing()?;
    recording_takes_no_time_of_its_own()?;
    layers::a_step_creates_and_allocates_nothing()?;
    layers::a_step_takes_no_time_of_its_own()?;
    rebinding_makes_a_bind_group_and_nothing_else()?;
    ten_thousand_calls_leave_nothing()
}

/// A bind group of wgpu's own for every dispatch of a call, over the same buffers.
fn bare_bind_groups(gpu: &Gpu, call: &Dispatch, layouts: &[wgpu::BindGroupLayout]) {
    for (part, layout) in call.parts().zip(layouts) {
        let entries: Vec<_> = part
            .bindings()
            .iter()
            .map(|bound| wgpu::BindGroupEntry {
                binding: bound.binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &bound.buffer,
                    offset: bound.offset,
                    size: bound.size.and_then(wgpu::BufferSize::new),
                }),
            })
            .collect();
        let label = Some(part.shader().entry);
        let descriptor = wgpu::BindGroupDescriptor { label, layout, entries: &entries };
        drop(gpu.device.create_bind_group(&descriptor));
    }
}

/// The layouts of a call's dispatches, as wgpu makes them of its shaders.
fn layouts(gpu: &Gpu, call: &Dispatch) -> Vec<wgpu::BindGroupLayout> {
    let layout = |part: phasor::Part<'_>| {
        let shader = part.shader();
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(shader.source.as_str().into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some(shader.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &shader.overrides,
                ..Default::default()
            },
            cache: None,
        });
        pipeline.get_bind_group_layout(0)
    };
    call.parts().map(layout).collect()
}

/// A call that moves to other buffers, as in a host whose buffers come from a pool.
fn rebinding_makes_a_bind_group_and_nothing_else() -> Result {
    const CALLS: u32 = 100;
    let gpu = Gpu::new()?;
    let (here, there) = (World::new(&gpu)?, World::new(&gpu)?);
    let kernels = here.kernels(&gpu)?;
    let mut calls = here.bind(&gpu, &kernels)?;
    let (appended, decoded) = there.bindings()?;
    let (append, decode) = &kernels;
    let objects = || gpu.instance.generate_report().map(|report| format!("{report:?}"));
    let mut rebind = || -> Result {
        append.rebind(&gpu.device, &mut calls[0], &APPEND, &appended)?;
        Ok(decode.rebind(&gpu.device, &mut calls[1], &DECODE, &decoded)?)
    };
    // The first one takes wgpu a place for a bind group beside those that it frees.
    rebind()?;
    let before = objects();
    assert!(before.is_some(), "an instance that does not count its objects proves nothing");
    rebind()?;
    assert_eq!(objects(), before, "a bind group takes the place of one, and nothing else is made");

    // The other buffers hold what a call bound afresh computes, and the first ones nothing.
    let fresh = World::new(&gpu)?;
    let bound = fresh.bind(&gpu, &kernels)?;
    for (world, [append, decode]) in [(&there, &calls), (&fresh, &bound)] {
        gpu.queue.write_buffer(&world.kv_lens, 0, bytemuck::cast_slice(&[1u32; 2]));
        gpu.queue.write_buffer(&world.table, 0, bytemuck::cast_slice(&[0u32; 12]));
        gpu.queue.write_buffer(&world.table, 4 * 6, bytemuck::cast_slice(&[1u32]));
        gpu.run(|encoder| {
            append.encode(encoder);
            decode.encode(encoder);
        });
    }
    let [moved, afresh, first] = [&there, &fresh, &here].map(|w| gpu.download_bytes(&w.out));
    assert_eq!(moved, afresh);
    let finite = |x: &[u8]| f32::from_ne_bytes([x[0], x[1], x[2], x[3]]).is_finite();
    assert!(moved.chunks_exact(4).all(finite) && !first.chunks_exact(4).any(finite));

    // Another call is refused, and the one that is bound stays.
    let mut other = decoded.clone();
    other.q.layout.offset = 4;
    other.q.layout.shape[0] = 1;
    let one = DecodeShape { batch: 1, seq_q: 1 };
    other.out.layout.shape[0] = 1;
    let refused = decode.rebind(&gpu.device, &mut calls[1], &one, &other);
    assert!(matches!(refused, Err(phasor::Error::Rebind { .. })), "{refused:?}");

    // Of the host, it takes what the recipe of the call takes, and what wgpu does.
    let layouts = layouts(&gpu, &calls[1]);
    bare_bind_groups(&gpu, &calls[1], &layouts);
    let bare = allocations(&mut || bare_bind_groups(&gpu, &calls[1], &layouts));
    let recipe =
        allocations(&mut || drop(decode.plan().recipe(&DECODE, &decoded).expect("as above")));
    let mut rebound = calls[1].clone();
    let ours = allocations(&mut || {
        decode.rebind(&gpu.device, &mut rebound, &DECODE, &decoded).expect("as above");
    });
    println!(
        "host allocations: rebind {ours:?}, its recipe {recipe:?}, wgpu's bind groups {bare:?}"
    );
    // (Growths are not compared: wgpu's lists of the bind groups of a buffer grow now and then.)
    assert_eq!(ours[0], bare[0] + recipe[0]);
    let least = |run: &mut dyn FnMut()| {
        let mut round = |_| {
            let start = std::time::Instant::now();
            (0..CALLS).for_each(|_| run());
            start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
        };
        (0..20).map(&mut round).fold(f64::INFINITY, f64::min)
    };
    let groups = least(&mut || bare_bind_groups(&gpu, &calls[1], &layouts));
    let rebind = least(&mut || {
        decode.rebind(&gpu.device, &mut rebound, &DECODE, &decoded).expect("as above");
    });
    let recipe = least(&mut || {
        decode.plan().recipe(&DECODE, &decoded).expect("as above");
    });
    let bind = least(&mut || {
        decode.bind(&gpu.device, &DECODE, &decoded).expect("as above");
    });
    println!(
        "decode, two dispatches: bind {bind:.1} us, rebind {rebind:.1} us, of which its recipe \
         {recipe:.1} us; wgpu's two bind groups {groups:.1} us"
    );
    assert!(rebind <= 2.0 * groups, "{rebind} us, where wgpu alone takes {groups} us");
    Ok(())
}

/// Calls that are bound afresh each time, as an engine does whose shapes change.
fn ten_thousand_calls_leave_nothing() -> Result {
    /// Bytes of growth that are no leak: the allocator's own, and the driver's.
    const SLACK: [u64; 2] = [64 << 10, 8 << 20];
    let gpu = Gpu::new()?;
    let world = World::new(&gpu)?;
    let kernels = world.kernels(&gpu)?;
    let advance = Bare::new(&gpu, [&world.lens, &world.kv_lens, &world.table]);
    let calls = |n: u32| -> Result {
        for i in 1..=n {
            let [append, decode] = world.bind(&gpu, &kernels)?;
            gpu.run(|encoder| {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                advance.record(&mut pass);
                append.record(&mut pass);
                decode.record(&mut pass);
            });
            if i.is_multiple_of(100) {
                gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
            }
        }
        Ok(())
    };
    let objects = || gpu.instance.generate_report().map(|report| format!("{report:?}"));
    let bytes = || {
        let heap = COUNTED.stats();
        [(heap.bytes_allocated - heap.bytes_deallocated) as u64, resident()]
    };
    calls(1_000)?;
    let before = (objects(), bytes());
    assert!(before.0.is_some(), "an instance that does not count its objects proves nothing");
    calls(9_000)?;
    assert_eq!(objects(), before.0, "calls left an object behind");
    for (n, (after, before)) in bytes().into_iter().zip(before.1).enumerate() {
        println!("9000 calls: {before} to {after} bytes");
        assert!(after < before + SLACK[n], "{before} bytes became {after}");
    }
    Ok(())
}

/// Bytes of the process, the driver's included; 0 where the system does not tell in this way.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    4096 * pages.unwrap_or(0)
}

/// Host time of one recording beyond what wgpu takes for the same commands; the least of some
/// rounds.
fn recording_takes_no_time_of_its_own() -> Result {
    const CALLS: u32 = 200;
    let gpu = Gpu::new()?;
    let world = World::new(&gpu)?;
    let [append, decode] = world.bind(&gpu, &world.kernels(&gpu)?)?;
    let others = [(); 3].map(|()| Bare::new(&gpu, [&world.lens, &world.kv_lens, &world.table]));
    // Recorded and dropped: the time is the host's alone.
    let least = |record: &dyn Fn(&mut wgpu::ComputePass<'_>)| {
        let round = |_| {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let start = std::time::Instant::now();
            for _ in 0..CALLS {
                record(&mut pass);
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(3 * CALLS)
        };
        (0..20).map(round).fold(f64::INFINITY, f64::min)
    };
    let ours = least(&|pass| {
        append.record(pass);
        decode.record(pass);
    });
    let bare = least(&|pass| others.iter().for_each(|other| other.record(pass)));
    println!("{ours:.2} us a dispatch, of which wgpu alone takes {bare:.2} us");
    assert!(ours - bare < 5.0, "{ours} us a dispatch, where wgpu alone takes {bare} us");
    Ok(())
}

fn a_step_creates_and_allocates_nothing() -> Result {
    let gpu = Gpu::new()?;
    let world = World::new(&gpu)?;
    let [append, decode] = world.bind(&gpu, &world.kernels(&gpu)?)?;
    let mut recorded: Vec<_> = [&append, &decode]
        .iter()
        .flat_map(|call| call.parts())
        .map(|p| p.shader().kernel)
        .collect();
    recorded.sort();
    let rows = KERNELS.iter().filter(|(_, recorded)| recorded.is_ok());
    assert_eq!(recorded, rows.map(|(kernel, _)| *kernel).collect::<Vec<_>>());
    assert_eq!(KernelKind::not_once(KERNELS.map(|(kernel, _)| kernel)), []);
    let advance = Bare::new(&gpu, [&world.lens, &world.kv_lens, &world.table]);
    // Others than the one before: what is set already, wgpu does not record.
    let others = [(); 3].map(|()| Bare::new(&gpu, [&world.lens, &world.kv_lens, &world.table]));
    let step = |record: &dyn Fn(&mut wgpu::ComputePass<'_>)| {
        let mut counts = [0; 2];
        gpu.run(|encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            advance.record(&mut pass);
            counts = allocations(&mut || record(&mut pass));
        });
        counts
    };
    let served = |pass: &mut wgpu::ComputePass<'_>| {
        append.record(pass);
        decode.record(pass);
    };
    let objects = || gpu.instance.generate_report().map(|report| format!("{report:?}"));
    for _ in 0..WARM {
        step(&served);
    }
    let before = objects();
    assert!(before.is_some(), "an instance that does not count its objects proves nothing");
    let mut counts = Vec::with_capacity(STEPS as usize);
    for _ in 0..STEPS {
        counts.push(step(&served));
    }
    assert_eq!(objects(), before, "a step left an object behind, or took one");

    // As many commands of wgpu's own: the append, the decode over its splits, their merge.
    assert!(world.plan.merge().is_some());
    let out = gpu.download_bytes(&world.out);
    let bare = step(&|pass| others.iter().for_each(|other| other.record(pass)));
    assert_eq!(counts, vec![bare; STEPS as usize], "a step allocates what wgpu alone does not");

    // The loop has computed what a call bound afresh computes.
    assert!(out.chunks_exact(4).all(|x| f32::from_ne_bytes([x[0], x[1], x[2], x[3]]).is_finite()));
    gpu.queue.write_buffer(&world.kv_lens, 0, bytemuck::cast_slice(&[WARM + STEPS, 25]));
    gpu.queue.write_buffer(&world.out, 0, &vec![0xff; out.len()]);
    let [_, fresh] = world.bind(&gpu, &world.kernels(&gpu)?)?;
    gpu.run(|encoder| fresh.encode(encoder));
    assert_eq!(gpu.download_bytes(&world.out), out);
    Ok(())
}
