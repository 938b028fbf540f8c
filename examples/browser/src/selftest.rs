//! The crate's self-test of the page's device.

use gloo_timers::future::TimeoutFuture;
use phasor::Capabilities;
use phasor::selftest::{Outcome, SelfTest};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::gpu::Gpu;

#[wasm_bindgen]
impl Gpu {
    /// Probes each kernel and storage: JSON `[{ probe, outcome, error, bound, reason }]`, outcome
    /// `passed`, `failed` or `not run`.
    pub async fn self_test(&self) -> String {
        let shared = self.shared();
        let caps = Capabilities::of(&shared.device);
        let mut test = SelfTest::start(&shared.device, &shared.queue, &caps);
        let report = loop {
            match test.finish() {
                Some(report) => break report,
                None => TimeoutFuture::new(10).await,
            }
        };
        let findings = report.findings.into_iter().map(|finding| {
            let probe = finding.probe;
            match finding.outcome {
                Outcome::Passed { error, bound } => {
                    json!({ "probe": probe, "outcome": "passed", "error": error, "bound": bound })
                }
                Outcome::Failed { reason } => {
                    json!({ "probe": probe, "outcome": "failed", "reason": reason })
                }
                Outcome::NotRun { reason } => {
                    json!({ "probe": probe, "outcome": "not run", "reason": reason })
                }
            }
        });
        serde_json::Value::Array(findings.collect()).to_string()
    }
}
