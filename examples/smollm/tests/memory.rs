//! A test on its own: it looks at the memory of the whole process.

use std::path::Path;

use phasor::cache::CacheType;
use phasor_kit::gpu::Gpu;
use phasor_smollm::gpu::{OnGpu, Options};
use phasor_smollm::model::Model;
use phasor_smollm::weights::Weights;

/// What the process has in memory, in bytes, where the system tells.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(4096 * statm.split(' ').nth(1)?.parse::<u64>().ok()?)
}

#[test]
fn memory_does_not_grow_over_a_thousand_tokens() {
    let gpu = Gpu::new().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/golden/ropepp_model_eh.safetensors");
    let weights = Weights::read(&path).unwrap();
    let options =
        Options { kv: CacheType::F32, paged: true, capacity: 1200, chunk: 16, split_ms: None };
    let on_gpu = OnGpu::new(gpu.clone(), &weights, &options).unwrap();
    let mut model = Model::new(weights, Box::new(on_gpu));
    let device = || gpu.device.generate_allocator_report().map(|it| it.total_allocated_bytes);
    let mut run = |tokens| (0..tokens).for_each(|id| drop(model.feed(&[id % 53]).unwrap()));
    run(100);
    let before = (resident(), device());
    run(1000);
    let after = (resident(), device());
    assert_eq!(after.1, before.1, "on the device");
    if let (Some(before), Some(after)) = (before.0, after.0) {
        // 1000 tokens of 2 layers: a kilobyte lost at each would show.
        let grown = after.saturating_sub(before);
        assert!(grown < 2 << 20, "{grown} bytes more than before");
    }
}
