//! The JSON that the page saves, and what must hold of it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What the page saves. A field that is missing or unknown is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// `phasor browser results 1`.
    pub format: String,
    /// Version of the crate.
    pub phasor: String,
    /// `YYYY-MM-DD`.
    pub date: String,
    /// The adapter, as the browser describes it.
    pub adapter: Adapter,
    /// The browser.
    pub browser: Browser,
    /// Milliseconds that a submission was cut to.
    pub budget_ms: f64,
    /// Every probe of the self-test.
    pub self_test: Vec<Probe>,
    /// Sizes that all times share.
    pub model: Model,
    /// Causal prefill by length.
    pub prefill: Vec<Prefill>,
    /// Rotation, append and decode.
    pub steps: Vec<Step>,
    /// What was not measured, and why.
    pub left_out: Vec<String>,
    /// Whether it ran to its end.
    pub complete: bool,
}

/// The browser's `GPUAdapterInfo`; browsers leave fields empty.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// For one `nvidia`.
    pub vendor: String,
    /// For one `ampere`.
    pub architecture: String,
    /// A number, in most browsers empty.
    pub device: String,
    /// A name, in most browsers empty.
    pub description: String,
    /// Whether it runs on the CPU.
    pub software: bool,
}

/// What the browser says of itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Browser {
    /// `navigator.userAgent`.
    pub agent: String,
    /// Names with versions, where it has such a list.
    pub brands: Vec<String>,
    /// The operating system, where it says.
    pub platform: String,
}

/// One probe of the self-test.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What was computed.
    pub probe: String,
    /// `passed`, `failed` or `not run`.
    pub outcome: String,
    /// Of one that passed.
    pub error: Option<f64>,
    /// Of one that passed.
    pub bound: Option<f64>,
    /// Of one that did not.
    pub reason: Option<String>,
}

/// Sizes of the attention that is timed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Query heads.
    pub heads: u64,
    /// Heads of K and V.
    pub kv_heads: u64,
    /// Channels.
    pub head_dim: u64,
    /// `f32`.
    pub dtype: String,
    /// True.
    pub causal: bool,
}

/// Prefill of one length.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefill {
    /// Tokens.
    pub seq: u64,
    /// By `plain`, `two passes`, `packed` and `fused`.
    pub ways: BTreeMap<String, Timed>,
}

/// One call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timed {
    /// Milliseconds.
    pub ms: f64,
    /// 10^9 operations a second.
    pub gflops: f64,
    /// 10^9 bytes a second.
    pub gbs: f64,
    /// Dispatches.
    pub parts: u64,
    /// Largest difference from the formula in f64.
    pub error: f64,
    /// What it may be.
    pub bound: f64,
}

/// Another kernel's call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `rotation`, `append` or `decode`.
    pub name: String,
    /// Of decode, `plain` or `fused`.
    pub way: String,
    /// Rows, or keys of the cache.
    pub rows: u64,
    /// Milliseconds.
    pub ms: f64,
    /// 10^9 operations a second.
    pub gflops: f64,
    /// 10^9 bytes a second.
    pub gbs: f64,
    /// Dispatches.
    pub parts: u64,
    /// Largest difference from the formula in f64.
    pub error: f64,
    /// What it may be.
    pub bound: f64,
}

/// The ways of prefill, and how many streams each computes.
const WAYS: [(&str, u64); 4] = [("plain", 1), ("two passes", 2), ("packed", 2), ("fused", 2)];

/// Reads a document and checks it.
///
/// # Errors
/// What is wrong, and where.
pub fn read(text: &str) -> Result<Document, String> {
    let document: Document = serde_json::from_str(text).map_err(|e| e.to_string())?;
    document.check()?;
    Ok(document)
}

impl Document {
    fn check(&self) -> Result<(), String> {
        ensure(self.format == "phasor browser results 1", || format!("format {:?}", self.format))?;
        ensure(is_date(&self.date), || format!("date {:?}, not YYYY-MM-DD", self.date))?;
        ensure(self.complete, || "it did not run to its end".into())?;
        ensure(!self.browser.agent.is_empty(), || "no browser".into())?;
        for text in [&self.phasor, &self.adapter.vendor, &self.adapter.architecture] {
            ensure(is_plain(text), || format!("{text:?} is no name"))?;
        }
        self.check_self_test()?;
        ensure(!self.prefill.is_empty() && !self.steps.is_empty(), || "no times".into())?;
        let lengths: Vec<u64> = self.prefill.iter().map(|row| row.seq).collect();
        ensure(lengths.is_sorted_by(|a, b| a < b), || format!("lengths {lengths:?}"))?;
        for row in &self.prefill {
            for (way, timed) in &row.ways {
                let what = format!("{way}, {} tokens", row.seq);
                let (_, streams) = WAYS
                    .into_iter()
                    .find(|(name, _)| name == way)
                    .ok_or_else(|| format!("{what}: no such way"))?;
                timed.check(&what)?;
                // A multiply-add is two, over D channels of k and as many of v.
                let pairs = row.seq * (row.seq + 1) / 2;
                let flops = streams * self.model.heads * 4 * self.model.head_dim * pairs;
                timed.agrees(&what, flops)?;
            }
        }
        for step in &self.steps {
            let Step { name, way, rows, ms, gflops, gbs, parts, error, bound } = step.clone();
            let what = format!("{name} {way} {rows}");
            let known = matches!(
                (&name[..], &way[..]),
                ("rotation" | "append", "") | ("decode", "plain" | "fused")
            );
            ensure(known, || format!("{what}: no such step"))?;
            Timed { ms, gflops, gbs, parts, error, bound }.check(&what)?;
        }
        Ok(())
    }

    fn check_self_test(&self) -> Result<(), String> {
        let mut passed = 0;
        for Probe { probe, outcome, error, bound, reason } in &self.self_test {
            match (&outcome[..], error, bound, reason) {
                ("passed", Some(error), Some(bound), None) => {
                    ensure(error <= bound, || format!("{probe}: {error} of {bound}"))?;
                    passed += 1;
                }
                ("not run", None, None, Some(_)) => {}
                _ => return Err(format!("self-test: {probe}: {outcome} {reason:?}")),
            }
        }
        ensure(passed > 0, || "no probe of the self-test passed".into())
    }

    /// Probes that passed.
    pub fn passed(&self) -> usize {
        self.self_test.iter().filter(|probe| probe.outcome == "passed").count()
    }
}

impl Timed {
    fn check(&self, what: &str) -> Result<(), String> {
        let Self { ms, gflops, gbs, error, bound, .. } = *self;
        for (name, x) in [("ms", ms), ("gflops", gflops), ("gbs", gbs)] {
            // Appends without a rotation compute nothing.
            let least = if name == "gflops" { 0.0 } else { f64::MIN_POSITIVE };
            ensure(x.is_finite() && x >= least, || format!("{what}: {name} is {x}"))?;
        }
        ensure(self.parts > 0, || format!("{what}: no dispatch"))?;
        ensure((0.0..=bound).contains(&error), || {
            format!("{what}: off by {error}, where {bound} is allowed")
        })
    }

    /// Whether time and speed tell of so many operations, to the digits that are saved.
    fn agrees(&self, what: &str, flops: u64) -> Result<(), String> {
        let said = self.ms * self.gflops * 1e6;
        let off = (said / flops as f64 - 1.0).abs();
        ensure(off < 0.01, || {
            format!("{what}: {} ms at {} GFLOP/s are not {flops} operations", self.ms, self.gflops)
        })
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn is_date(text: &str) -> bool {
    let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_digit());
    let mut parts = text.split('-');
    let [year, month, day] = [(); 3].map(|()| parts.next().unwrap_or_default());
    parts.next().is_none() && digits(year, 4) && digits(month, 2) && digits(day, 2)
}

/// Nothing that could mean something to Markdown or HTML.
fn is_plain(text: &str) -> bool {
    text.len() <= 80 && text.chars().all(|c| c.is_alphanumeric() || " .-_()/+,:".contains(c))
}
