//! A cache of compiled kernels, asked by several threads at once.

use std::ptr;

use phasor::merge::MergeProblem;
use phasor::{Error, Kernels};
use phasor_kit::gpu::Gpu;

#[test]
fn threads_share_kernels_and_compile_each_once() {
    fn shared<T: Send + Sync>(_: &T) {}
    // A device of its own, so that pipelines can be counted.
    let gpu = Gpu::new().unwrap();
    let pipelines = || {
        let report = gpu.instance.generate_report().expect("counts of the native instance");
        report.hub_report().compute_pipelines.num_kept_from_user
    };
    let kernels = Kernels::new(&gpu.device, gpu.capabilities());
    shared(&kernels);
    let problems = [4, 8].map(MergeProblem::new);
    let all: Vec<_> = std::thread::scope(|scope| {
        let ask = |i: usize| kernels.get(&problems[i % 2]).unwrap();
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || ask(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (i, kernel) in all.iter().enumerate() {
        assert!(ptr::eq(kernel.plan(), all[i % 2].plan()), "compiled twice");
        assert_eq!(kernel.plan().problem(), &problems[i % 2]);
    }
    assert_eq!((kernels.len(), pipelines()), (2, 2));

    // What cannot be planned leaves nothing; what differs in its table alone shares the pipeline.
    let refused = kernels.get(&MergeProblem::new(3));
    assert!(matches!(refused, Err(Error::Invalid { what: "value_dim", .. })), "{refused:?}");
    assert_eq!(kernels.len(), 2);
    let sinks = |sink| MergeProblem { sinks: vec![sink], ..MergeProblem::new(4) };
    let [one, two] = [1.0, 2.0].map(|sink| kernels.get(&sinks(sink)).unwrap());
    assert!(!ptr::eq(one.plan(), two.plan()));
    assert_eq!((kernels.len(), pipelines()), (4, 2));

    kernels.clear();
    assert!(kernels.is_empty());
    let again = kernels.get(&problems[0]).unwrap();
    assert!(!ptr::eq(again.plan(), all[0].plan()));
}
