//! wgpu's pipeline cache, where the backend has one.

use phasor::{Compiler, KernelKind, wgpu};
use phasor_kit::gpu::Gpu;

use crate::harness::{every_kernel, lab};

/// A device with pipeline caches, where the adapter has them. All are of one instance: another has
/// names of its own for its objects.
fn own() -> Option<Gpu> {
    let shared = lab();
    let wanted = wgpu::Features::PIPELINE_CACHE;
    let features = |adapter: &wgpu::Adapter| (adapter.limits(), adapter.features() & wanted);
    let gpu = Gpu::from_instance(shared.gpu.instance.clone(), features).unwrap();
    if gpu.device.features().contains(wanted) {
        return Some(gpu);
    }
    // The one backend of wgpu's that has them.
    assert_ne!(shared.gpu.info.backend, wgpu::Backend::Vulkan, "Vulkan without pipeline caches");
    None
}

#[expect(unsafe_code, reason = "wgpu asks for data that `get_data` gave")]
fn cache(gpu: &Gpu, data: Option<&[u8]>) -> wgpu::PipelineCache {
    let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: false };
    // SAFETY: what a cache of the same adapter gave in this very process, or nothing.
    unsafe { gpu.device.create_pipeline_cache(&descriptor) }
}

/// Compiles every kernel through `cache`, and says what wgpu said.
fn compile(gpu: &Gpu, cache: &wgpu::PipelineCache) -> Vec<(KernelKind, Option<wgpu::Error>)> {
    let caps = gpu.capabilities();
    let kernels = every_kernel(Compiler::new(&gpu.device).with_cache(cache), &caps);
    let compiled = kernels.into_iter().map(|(name, compile)| {
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        compile().unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, pollster::block_on(scope.pop()))
    });
    compiled.collect()
}

#[test]
fn a_cache_goes_with_every_kernel_and_comes_back() {
    let Some(gpu) = own() else { return };
    let first = cache(&gpu, None);
    for (name, error) in compile(&gpu, &first) {
        assert!(error.is_none(), "{name}: {error:?}");
    }
    let data = first.get_data().expect("a driver with caches gives their data");
    // Another run of the program.
    let again = own().unwrap();
    let second = cache(&again, Some(&data));
    for (name, error) in compile(&again, &second) {
        assert!(error.is_none(), "{name}: {error:?}");
    }
    // wgpu refuses a cache of another device, which shows that every kernel hands its own over.
    for (name, error) in compile(&again, &first) {
        assert!(error.is_some(), "{name} was compiled without its cache");
    }
}
