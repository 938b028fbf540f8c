//! The subject of `scripts/race-check.sh`'s test of itself. Nothing here finds a race: the Vulkan
//! validation layer does, and the script reads its reports.

use std::borrow::Cow;

use phasor::{DType, wgpu};

use crate::harness::lab;

/// Every invocation writes a word of workgroup memory and reads another's.
const SOURCE: &str = "
    @group(0) @binding(0) var<storage, read_write> out: array<f32>; // [64]
    var<workgroup> words: array<f32, 64>;
    @compute @workgroup_size(64)
    fn planted(@builtin(local_invocation_index) i: u32) {
        words[i] = f32(i);
        workgroupBarrier();
        out[i] = words[63u - i];
    }";

fn run(source: String) -> Vec<f32> {
    let gpu = &lab().gpu;
    let out = gpu.output(64, DType::F32);
    let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(Cow::Owned(source)),
    });
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: out.as_entire_binding() }],
    });
    gpu.run(|encoder| {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    });
    gpu.download(&out, DType::F32)
}

#[test]
#[ignore = "a data race on purpose, for scripts/race-check.sh"]
fn planted() {
    let source = SOURCE.replace("workgroupBarrier();", "");
    assert_ne!(source, SOURCE);
    // What a race gives is anybody's guess: only the layer's report counts.
    run(source);
}

#[test]
#[ignore = "the same without the race, for scripts/race-check.sh"]
fn mended() {
    let expected: Vec<f32> = (0u8..64).rev().map(f32::from).collect();
    assert_eq!(run(SOURCE.to_owned()), expected);
}
