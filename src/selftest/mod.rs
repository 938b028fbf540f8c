//! Whether a device computes what it should.
//!
//! A driver can be wrong. It can even be a stub: Mesa's no-op shims take every dispatch and give
//! back zeros. [`selftest`] runs a small probe through each kernel and through the tiles that plans
//! for the device use. It holds each result to the oracle and says what went wrong, and
//! [`Report::apply`] keeps later plans away from that.
//!
//! ```no_run
//! # use phasor::{Capabilities, selftest, wgpu};
//! # fn f(device: &wgpu::Device, queue: &wgpu::Queue) {
//! let report = selftest(device, queue);
//! println!("{report}");
//! let caps = report.apply(Capabilities::of(device)); // plan with these
//! # }
//! ```
//!
//! It submits work and reads back, as [`tuner`](crate::tuner) does and nothing else in the crate,
//! and [`selftest`] blocks. On the web nothing may block: there [`SelfTest::start`] submits, and
//! [`SelfTest::finish`], called once in a while, asks whether the results are there.

mod attention;
mod backward;
mod caches;
mod inputs;
mod linear;
mod linear_backward;
mod memory;
mod probes;
mod readback;
mod report;
mod rope;
mod scores;

pub use report::{Finding, Outcome, Report};

use crate::Capabilities;
use readback::Pending;

/// Rounds of probes: each leaves out what failed in the one before, so that the next tile gets its
/// turn.
#[cfg(not(target_arch = "wasm32"))]
const MOST_ROUNDS: usize = 16;

/// Runs the probes, waits for them and says what they found. Nearly all of the time goes into
/// compiling a dozen shaders, on as many threads as there are cores; a software adapter takes
/// seconds over each. Where a tile of the attention kernel fails, the one that would take its place
/// is probed too, until one is right.
///
/// Errors of wgpu's on the way, a lost device included, are findings like others.
#[cfg(not(target_arch = "wasm32"))]
pub fn selftest(device: &wgpu::Device, queue: &wgpu::Queue) -> Report {
    selftest_with(device, queue, Capabilities::of(device))
}

/// [`selftest`] of a device of which more is known than it says itself: with
/// [`Capabilities::with_adapter`] it probes tiles on matrix units too, where these may be trusted,
/// and plans then take those that passed.
#[cfg(not(target_arch = "wasm32"))]
pub fn selftest_with(device: &wgpu::Device, queue: &wgpu::Queue, mut caps: Capabilities) -> Report {
    let mut whole = Report::new(&caps);
    for _ in 0..MOST_ROUNDS {
        let mut round = SelfTest::start(device, queue, &caps);
        let report = loop {
            // A lost device cannot be waited for; its mappings fail by themselves.
            let waited = device.poll(wgpu::PollType::wait_indefinitely());
            match round.finish() {
                Some(report) => break report,
                None if waited.is_err() => {
                    break round.give_up("the device could not be waited for");
                }
                None => {}
            }
        };
        let before = caps.quarantined.len();
        caps = report.apply(caps);
        whole.add(report);
        let all = caps.quarantine(crate::plan::Suspect::Device).is_some();
        if all || caps.quarantined.len() == before {
            break;
        }
    }
    whole
}

/// One round of probes under way.
#[derive(Debug)]
pub struct SelfTest {
    report: Report,
    pending: Vec<Pending>,
}

impl SelfTest {
    /// Compiles and submits a probe of each kernel, tile and storage that plans for `caps` may use.
    /// What these leave out already is not probed: start again with [`Report::apply`]'s result to
    /// probe what takes its place.
    pub fn start(device: &wgpu::Device, queue: &wgpu::Queue, caps: &Capabilities) -> Self {
        let mut report = Report::new(caps);
        let mut pending = Vec::new();
        for submitted in Pending::submit_all(device, queue, probes::all(caps)) {
            match submitted {
                Ok(probe) => pending.push(probe),
                Err(finding) => report.push(finding),
            }
        }
        Self { report, pending }
    }

    /// The report, once all results have come back; `None` until then. Never waits: on native
    /// backends, the caller polls the device.
    pub fn finish(&mut self) -> Option<Report> {
        if !self.pending.iter_mut().all(Pending::is_ready) {
            return None;
        }
        for probe in self.pending.drain(..) {
            self.report.push(probe.judge());
        }
        Some(self.report.clone())
    }

    /// The report with everything that has not come back counted as failed.
    #[cfg(not(target_arch = "wasm32"))]
    fn give_up(&mut self, why: &str) -> Report {
        for probe in self.pending.drain(..) {
            self.report.push(probe.failed(why));
        }
        self.report.clone()
    }
}
