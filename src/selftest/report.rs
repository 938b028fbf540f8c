//! What a self-test found.

use crate::Capabilities;
use crate::plan::Suspect;

/// What one probe found.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What was computed.
    pub probe: String,
    /// What the probe speaks for.
    pub suspects: Vec<Suspect>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Within the bound.
    Passed {
        /// Largest absolute error against the f64 oracle.
        error: f64,
        /// Twice the largest error of the oracle run in f32, and a few ulp.
        bound: f64,
    },
    /// Something is wrong.
    Failed {
        /// What.
        reason: String,
    },
    /// The device has no room for it, so no plan uses it.
    NotRun {
        /// The error that says so.
        reason: String,
    },
}

/// What a self-test found on a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Adapter, backend and driver.
    pub adapter: String,
    /// All probes, in the order in which they ran.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(caps: &Capabilities) -> Self {
        Self { adapter: caps.adapter.clone(), findings: Vec::new() }
    }

    pub(super) fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Adds a later round. What passed before and passes again is not said twice.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn add(&mut self, round: Self) {
        for finding in round.findings {
            let known = self.findings.iter_mut().find(|known| {
                known.probe == finding.probe && !matches!(known.outcome, Outcome::Failed { .. })
            });
            match known {
                Some(known) => *known = finding,
                None => self.findings.push(finding),
            }
        }
    }

    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        !self.findings.iter().any(|f| matches!(f.outcome, Outcome::Failed { .. }))
    }

    /// `caps` without what failed. Where not one probe came out right, it is the device
    /// itself that is left out, and every plan is refused.
    pub fn apply(&self, mut caps: Capabilities) -> Capabilities {
        let passed = self.findings.iter().any(|f| matches!(f.outcome, Outcome::Passed { .. }));
        for finding in &self.findings {
            let reason = match &finding.outcome {
                Outcome::Failed { reason } => reason,
                Outcome::Passed { .. } => {
                    caps.add_probed(&finding.suspects);
                    continue;
                }
                Outcome::NotRun { .. } => continue,
            };
            if !passed {
                let reason = format!("no probe came out right ({}: {reason})", finding.probe);
                return caps.without(Suspect::Device, reason);
            }
            for &suspect in &finding.suspects {
                caps = caps.without(suspect, format!("self-test: {}: {reason}", finding.probe));
            }
        }
        caps
    }
}

impl core::fmt::Display for Report {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "self-test of {}", self.adapter)?;
        for Finding { probe, outcome, .. } in &self.findings {
            match outcome {
                Outcome::Passed { error, bound } => {
                    write!(f, "\n  passed   {probe}: error {error:.1e} of {bound:.1e}")?;
                }
                Outcome::Failed { reason } => write!(f, "\n  FAILED   {probe}: {reason}")?,
                Outcome::NotRun { reason } => write!(f, "\n  not run  {probe}: {reason}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::KernelKind;
    use crate::plan::attention::AttentionProblem;
    use crate::plan::cache::CacheType;
    use crate::plan::rope::RopeProblem;
    use crate::{DType, Error, HeadMap};

    const ROPE: Suspect = Suspect::Kernel(KernelKind::Rope);
    const SCORES: Suspect = Suspect::Kernel(KernelKind::Scores);

    fn report(outcomes: &[(Suspect, bool)]) -> Report {
        let mut report = Report::new(&Capabilities::webgpu_default());
        for &(suspect, passed) in outcomes {
            let outcome = match passed {
                true => Outcome::Passed { error: 0.0, bound: 1.0 },
                false => Outcome::Failed { reason: "zeros".into() },
            };
            report.push(Finding { probe: suspect.to_string(), suspects: vec![suspect], outcome });
        }
        report
    }

    fn attention() -> AttentionProblem {
        AttentionProblem::new(HeadMap::ropepp(2).unwrap(), 1, 64)
    }

    #[test]
    fn a_tile_that_failed_gives_way_to_the_next() {
        let caps = Capabilities::webgpu_default();
        let best = attention().plan(&caps).unwrap();
        assert!(best.left_out().is_empty());
        let tile = Suspect::Tile(*best.tile());
        let caps = report(&[(ROPE, true), (tile, false)]).apply(caps);
        let next = attention().plan(&caps).unwrap();
        assert_ne!(next.tile(), best.tile());
        assert_eq!(next.left_out()[0].suspect, tile);
        assert!(next.to_string().contains("left out: attention in tiles of"), "{next}");
        assert!(next.to_string().contains("zeros"), "{next}");
    }

    #[test]
    fn where_every_tile_failed_the_plan_is_refused() {
        let mut caps = Capabilities::webgpu_default();
        let mut tiles = 0;
        let error = loop {
            match attention().plan(&caps) {
                Ok(plan) => caps = caps.without(Suspect::Tile(*plan.tile()), "zeros"),
                Err(error) => break error,
            }
            tiles += 1;
        };
        assert!(tiles > 5, "{tiles}");
        assert!(matches!(error, Error::Quarantined { .. }), "{error}");
    }

    #[test]
    fn kernels_and_storages_that_failed_are_refused() {
        let half = RopeProblem { dtype: DType::F16, ..RopeProblem::new(1, 1, 64) };
        let whole = RopeProblem::new(1, 1, 64);
        let failed = [(Suspect::Storage(CacheType::F16), false), (SCORES, true)];
        let caps = report(&failed).apply(Capabilities::webgpu_default());
        whole.plan(&caps).unwrap();
        let quarantined =
            |suspect| Err(Error::Quarantined { suspect, reason: reason(&caps, suspect) });
        assert_eq!(half.plan(&caps).map(drop), quarantined(failed[0].0));
        let halves = AttentionProblem { kv_dtype: DType::F16, ..attention() };
        assert_eq!(halves.plan(&caps).map(drop), quarantined(failed[0].0));
        let caps = report(&[(ROPE, false), (SCORES, true)]).apply(caps.clone());
        assert!(matches!(whole.plan(&caps), Err(Error::Quarantined { suspect: ROPE, .. })));
    }

    fn reason(caps: &Capabilities, suspect: Suspect) -> String {
        caps.quarantine(suspect).unwrap().reason.clone()
    }

    #[test]
    fn a_device_that_gets_nothing_right_is_left_out() {
        let failed = report(&[(ROPE, false), (SCORES, false)]);
        assert!(!failed.passed());
        let caps = failed.apply(Capabilities::webgpu_default());
        let error = attention().plan(&caps).unwrap_err();
        assert!(matches!(error, Error::Quarantined { suspect: Suspect::Device, .. }), "{error}");
        assert!(error.to_string().starts_with("the device is quarantined: no probe"), "{error}");
    }
}
