//! What this adapter can do at most, as far as WGSL reaches it.

use phasor::DType;
use phasor::wgpu;

use crate::Result;
use crate::timing::{Clock, Race, Time};

pub struct Roof {
    /// Best of scalar and vec4 multiply-adds in registers, two operations each.
    pub gflops: f64,
    /// Best of a copy in a shader and one by the queue, bytes read plus bytes written.
    pub copy_gbs: f64,
    /// A dispatch that does nothing, among many in a pass.
    pub dispatch_us: f64,
    /// An empty submission and the wait for it.
    pub submit_us: f64,
    /// The faster kernel of multiply-adds, and its operations.
    fma: (Kernel, f64),
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
    let race = clock.race(&[
        &|pass| scalar.record(pass),
        &|pass| vector.record(pass),
        &|pass| copy.record(pass),
        &|pass| nothing.record(pass),
    ]);
    let times = race.best;
    let flops = 2.0 * f64::from(fma_groups * 64) * f64::from(ITERATIONS * CHAINS);
    let gflops = |time: &Time| flops / time.ms() * 1e-6;
    let bytes = 32.0 * f64::from(quads);
    let scalar_is_faster = gflops(&times[0]) > gflops(&times[1]);
    Ok(Roof {
        gflops: gflops(&times[0]).max(gflops(&times[1])),
        copy_gbs: bytes / times[2].ms() * 1e-6,
        fma: (if scalar_is_faster { scalar } else { vector }, flops),
        dispatch_us: times[3].wall_ms * 1e3,
        submit_us: clock.empty_ms * 1e3,
    })
}

/// A copy to race against: of as many bytes, read and written, as a call moves, since what fits a
/// cache moves faster.
pub struct Copy {
    kernel: Kernel,
    bytes: f64,
}

impl Copy {
    pub fn new(clock: &Clock<'_>, bytes: u64) -> Self {
        // A workgroup copies 256 vectors of 16 bytes; one dimension of workgroups has to do.
        let most = clock.gpu.device.limits().max_compute_workgroups_per_dimension;
        let groups = ((bytes / (2 * 16 * 256)) as u32).clamp(1, most);
        let buffers = [(); 2].map(|()| clock.gpu.output(groups as usize * 1024, DType::F32));
        let kernel = Kernel::new(clock, "copy", buffers.each_ref(), groups);
        clock.gpu.run(|encoder| {
            kernel.record(&mut encoder.begin_compute_pass(&Default::default()));
        });
        Self { kernel, bytes: 2.0 * 4096.0 * f64::from(groups) }
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.kernel.record(pass);
    }

    /// Share of this copy's rate that a call of `bytes` reached.
    pub fn share(&self, bytes: u64, race: &Race, call: usize, copy: usize) -> f64 {
        bytes as f64 / self.bytes * race.ratio(copy, call)
    }
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

    /// The kernel to race against.
    pub fn record_fma(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.fma.0.record(pass);
    }

    /// Share of the multiply-adds' rate that a call of `flops` reached, which raced against them.
    pub fn share_of_fma(&self, flops: u64, race: &Race, call: usize, fma: usize) -> f64 {
        flops as f64 / self.fma.1 * race.ratio(fma, call)
    }
}
