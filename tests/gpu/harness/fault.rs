//! Calls as they are, or with a fault put into their shaders.

use std::{borrow::Cow, cell::Cell};

use phasor::{Dispatch, Part, wgpu};
use phasor_kit::gpu::Gpu;

/// A passage of a shader, and what stands there instead.
pub type Fault = [&'static str; 2];

thread_local! {
    /// The fault of this test, and how many shaders it went into.
    static FAULT: Cell<(Option<Fault>, u32)> = const { Cell::new((None, 0)) };
}

/// Runs `test` with a fault in every shader that has the passage.
///
/// # Panics
/// When none has: the passage has been rewritten, and the fault has to follow it.
pub fn with_fault<T>(fault: Fault, test: impl FnOnce() -> T) -> T {
    FAULT.set((Some(fault), 0));
    let result = test();
    let (_, count) = FAULT.replace((None, 0));
    assert!(count > 0, "no shader that ran has {:?}", fault[0]);
    result
}

/// Runs a call, and waits.
pub fn execute(gpu: &Gpu, call: &Dispatch) {
    let (fault, count) = FAULT.get();
    let Some([passage, instead]) = fault else {
        return gpu.run(|encoder| call.encode(encoder));
    };
    for part in call.parts() {
        let source = &part.shader().source;
        if source.contains(passage) {
            FAULT.set((fault, count + 1));
            run(gpu, part, source.replace(passage, instead));
        } else {
            gpu.run(|encoder| part.encode(encoder));
        }
    }
}

/// One part of a call, from another text.
fn run(gpu: &Gpu, part: Part<'_>, source: String) {
    let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("a faulty shader"),
        source: wgpu::ShaderSource::Wgsl(Cow::Owned(source)),
    });
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("a faulty shader"),
        layout: None,
        module: &module,
        entry_point: Some(part.shader().entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &part.shader().overrides,
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
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
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("a faulty shader"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    gpu.run(|encoder| {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        let [x, y] = part.workgroups();
        pass.dispatch_workgroups(x, y, 1);
    });
}
