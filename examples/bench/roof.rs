//! What this adapter can do at most, as far as WGSL reaches it.

use phasor::DType;
use phasor::wgpu;

use crate::Result;
use crate::timing::{Clock, Time};

pub struct Roof {
    /// Best of scalar and vec4 multiply-adds in registers, two operations each.
    pub gflops: f64,
    /// Best of a copy in a shader and one by the queue, bytes read plus bytes written.
    pub copy_gbs: f64,
    /// A dispatch that does nothing, among many in a pass.
    pub dispatch_us: f64,
    /// An empty submission and the wait for it.
    pub submit_us: f64,
}

/// Iterations of the multiply-add loop and multiply-adds of each, as in `roof.wgsl`.
const ITERATIONS: u32 = 256;
const CHAINS: u32 = 32;

struct Kernel {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    groups: u32,
}

impl Kernel {
    fn new(clock: &Clock<'_>, entry: &str, buffers: [&wgpu::Buffer; 2], groups: u32) -> Self {
        let device = &clock.gpu.device;
        let module = device.create_shader_module(wgpu::include_wgsl!("roof.wgsl"));
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module: &module,
            entry_point: Some(entry),
            compilation_options: Default::default(),
            cache: None,
        });
        let mut entries = Vec::new();
        for (binding, buffer) in (0..).zip(buffers) {
            entries.push(wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
        }
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self { pipeline, group, groups }
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.groups, 1, 1);
    }
}

pub fn measure(clock: &Clock<'_>) -> Result<Roof> {
    let caps = clock.gpu.capabilities();
    // Enough work to fill a GPU, little enough for a CPU.
    let (fma_groups, quads) = if caps.software { (64, 1 << 18) } else { (4096, 1 << 23) };
    let data: Vec<f32> = (0..4 * quads).map(|i| (i % 251) as f32).collect();
    let source = clock.gpu.upload(&data, DType::F32);
    let target = clock.gpu.output(data.len(), DType::F32);

    let kernel = |entry, groups| Kernel::new(clock, entry, [&source, &target], groups);
    let scalar = kernel("fma_scalar", fma_groups);
    let vector = kernel("fma_vec4", fma_groups);
    let copy = kernel("copy", quads / 256);
    let nothing = kernel("nothing", 1);
    for kernel in [&scalar, &vector, &copy, &nothing] {
        clock
            .gpu
            .run(|encoder| kernel.record(&mut encoder.begin_compute_pass(&Default::default())));
    }
    clock.gpu.run(|encoder| copy.record(&mut encoder.begin_compute_pass(&Default::default())));
    if clock.gpu.download(&target, DType::F32) != data {
        return Err("the copy kernel did not copy".into());
    }
    let times = clock.race(&[
        &|pass| scalar.record(pass),
        &|pass| vector.record(pass),
        &|pass| copy.record(pass),
        &|pass| nothing.record(pass),
    ]);
    let flops = 2.0 * f64::from(fma_groups * 64) * f64::from(ITERATIONS * CHAINS);
    let gflops = |time: &Time| flops / time.ms() * 1e-6;
    Ok(Roof {
        gflops: gflops(&times[0]).max(gflops(&times[1])),
        copy_gbs: 32.0 * f64::from(quads) / times[2].ms() * 1e-6,
        dispatch_us: times[3].wall_ms * 1e3,
        submit_us: clock.empty_ms * 1e3,
    })
}

impl Roof {
    pub fn print(&self) {
        println!(
            "roof: {:.1} GFLOP/s of f32 multiply-adds, {:.1} GB/s copied, {:.1} us a dispatch, {:.0} us a submission\n",
            self.gflops, self.copy_gbs, self.dispatch_us, self.submit_us
        );
    }

    /// Whether another measurement is more than a fifth away.
    pub fn differs_from(&self, other: &Self) -> bool {
        [(self.gflops, other.gflops), (self.copy_gbs, other.copy_gbs)]
            .iter()
            .any(|(a, b)| (a - b).abs() > 0.2 * a.max(*b))
    }

    /// Share of the roof that `flops` in `ms` reach, given that `bytes` must move as well.
    pub fn share(&self, flops: u64, bytes: u64, ms: f64) -> f64 {
        let least = (flops as f64 / self.gflops).max(bytes as f64 / self.copy_gbs) * 1e-6;
        least / ms
    }
}
