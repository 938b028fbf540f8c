//! The self-test on a device that the other tests trust.

use phasor::cache::CacheType;
use phasor::selftest::{Outcome, Report, SelfTest};
use phasor::{Capabilities, KernelKind, Sharing, Suspect, wgpu};

use crate::harness::lab;

#[test]
fn a_sound_device_passes() {
    let gpu = &lab().gpu;
    let report = phasor::selftest(&gpu.device, &gpu.queue);
    println!("{report}");
    assert_all_passed(&report);
    assert!(report.apply(gpu.capabilities()).quarantined.is_empty());
}

fn assert_all_passed(report: &Report) {
    assert!(report.passed(), "{report}");
    let passed = report.findings.iter().filter(|f| matches!(f.outcome, Outcome::Passed { .. }));
    let probed: Vec<Suspect> = passed.flat_map(|finding| finding.suspects.clone()).collect();
    for &kernel in KernelKind::ALL {
        let of = |suspect: &Suspect| suspect.kernel() == Some(kernel);
        assert!(probed.iter().any(of), "{kernel} was not probed");
    }
    for stored in [CacheType::F16, CacheType::Int8, CacheType::Q4] {
        assert!(probed.contains(&Suspect::Storage(stored)), "{stored} was not probed");
    }
}

/// Every kernel with all its tensors in one buffer, poison between them.
#[test]
fn a_host_that_keeps_all_in_one_buffer_passes() {
    let gpu = &lab().gpu;
    let caps = gpu.capabilities().sharing(Sharing::Ranges);
    let mut test = SelfTest::start(&gpu.device, &gpu.queue, &caps);
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let report = test.finish().expect("all has come back");
    println!("{report}");
    assert_all_passed(&report);
}

/// The pieces, as a page on the web has to use them: nothing blocks, and what is left out is not
/// probed.
#[test]
fn the_pieces_do_not_block() {
    let gpu = &lab().gpu;
    let probed = [KernelKind::Attention, KernelKind::Rope, KernelKind::Scores];
    let kernels = KernelKind::ALL.iter().filter(|kernel| !probed.contains(kernel));
    let kernels = kernels.map(|&kernel| Suspect::Kernel(kernel));
    let storages = [CacheType::Int8, CacheType::Q4].map(Suspect::Storage);
    let mut caps = kernels
        .chain(storages)
        .fold(gpu.capabilities(), |caps, suspect| caps.without(suspect, "not this time"));
    for dim in [64, 128, 256] {
        for heads in [phasor::HeadMap::plain(1), phasor::HeadMap::ropepp(1)] {
            caps = without_tiles(caps, heads.unwrap(), dim);
        }
    }
    let mut test = SelfTest::start(&gpu.device, &gpu.queue, &caps);
    let report = loop {
        if let Some(report) = test.finish() {
            break report;
        }
        gpu.device.poll(wgpu::PollType::Poll).unwrap();
    };
    let probes: Vec<_> = report.findings.iter().map(|finding| finding.probe.as_str()).collect();
    assert_eq!(probes, ["rope, f32", "rope, f16", "scores"]);
    assert!(report.passed(), "{report}");
}

fn without_tiles(mut caps: Capabilities, heads: phasor::HeadMap, dim: u32) -> Capabilities {
    let problem = phasor::attention::AttentionProblem::new(heads, 1, dim);
    while let Ok(plan) = problem.plan(&caps) {
        caps = caps.without(Suspect::Tile(*plan.tile()), "not this time");
    }
    caps
}
