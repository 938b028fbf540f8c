//! Reference continuations: feeds a model the tokens that a file states, and compares the logits
//! and the greedy choice of every step.

mod continuations;
mod tiny;

use std::fmt;
use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::model::{Model, Rows};
use crate::sampler::greedy;

/// One prompt, and what a greedy run makes of it.
pub struct Case {
    pub name: String,
    pub prompt: Vec<u32>,
    /// The logits behind every token of the prompt, where the file has them.
    prompt_logits: Vec<Vec<f32>>,
    pub steps: Vec<Step>,
    /// How far a logit of an f32 program may be off.
    bound: f32,
}

/// One greedy step.
pub struct Step {
    /// The token chosen.
    id: u32,
    /// The logits that it was chosen from: those that are known.
    known: Vec<(u32, f32)>,
    /// Largest logit less the second.
    margin: f32,
}

/// What a file holds.
pub struct File {
    pub cases: Vec<Case>,
}

impl File {
    /// A JSON file of continuations, or a safetensors file of a tiny model with its own.
    pub fn read(path: &Path) -> Result<Self> {
        let cases = match path.extension().is_some_and(|it| it == "safetensors") {
            true => tiny::read(path),
            false => std::fs::read(path)
                .map_err(Into::into)
                .and_then(|bytes| continuations::parse(&serde_json::from_slice::<Value>(&bytes)?)),
        };
        let cases = cases.map_err(|why| format!("{}: {why}", path.display()))?;
        if cases.is_empty() {
            return Err(format!("{}: there are no cases in it", path.display()).into());
        }
        Ok(Self { cases })
    }

    /// Tokens of the longest case.
    pub fn longest(&self) -> u32 {
        let tokens = |case: &Case| case.prompt.len() + case.steps.len();
        self.cases.iter().map(tokens).max().unwrap_or(0) as u32
    }
}

/// How exactly a model is expected to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// f32 throughout: every choice, and every logit within the file's bound.
    Exact,
    /// A cache of f16: every choice; the error of the logits is told.
    Choices,
    /// A quantised cache: where a choice differs, it is told with its margin, which must be no
    /// larger than twice the largest error of the logits of the other steps.
    Close,
}

/// A choice that differs from the file's.
#[derive(Debug)]
struct Divergence {
    step: usize,
    id: u32,
    stated: u32,
    margin: f32,
}

/// What one case came to.
#[derive(Debug)]
pub struct Outcome {
    name: String,
    pub passed: bool,
    steps: usize,
    same: usize,
    /// Largest error of a logit, over all steps and over those with the file's choice.
    error: f32,
    bound: Option<f32>,
    first: Option<Divergence>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "ok  " } else { "FAIL" };
        write!(f, "{verdict}  {}: {} of {} greedy ids equal", self.name, self.same, self.steps)?;
        write!(f, "; largest error of a logit {:.2e}", self.error)?;
        match self.bound {
            Some(bound) => write!(f, ", bound {bound:.2e}")?,
            None => write!(f, ", no bound for this cache")?,
        }
        if let Some(Divergence { step, id, stated, margin }) = &self.first {
            write!(f, "; first divergence at step {step}: {id}, not {stated}, of margin {margin}")?;
        }
        Ok(())
    }
}

/// Runs one case. The model is fed the file's tokens throughout, also where it would have chosen
/// another: up to the first such step this is what a run of its own feeds, and after it every step
/// is still one to compare.
pub fn run(model: &mut Model, case: &Case, expect: Expect) -> Result<Outcome> {
    model.reset()?;
    let mut error = 0f32;
    let rows = if case.prompt_logits.is_empty() { Rows::Last } else { Rows::All };
    let prompt = model.logits(&case.prompt, rows)?;
    for (got, stated) in prompt.iter().zip(&case.prompt_logits) {
        error = got.iter().zip(stated).fold(error, |error, (a, b)| worse(error, a - b));
    }
    let mut logits = prompt.into_iter().next_back().ok_or("a case without a prompt")?;
    let mut differing = Vec::new();
    let mut errors = Vec::new();
    for (i, step) in case.steps.iter().enumerate() {
        let off = step.known.iter().try_fold(0f32, |error, &(id, stated)| {
            logits.get(id as usize).map(|logit| worse(error, logit - stated))
        });
        errors.push(off.ok_or("a token that the model does not have")?);
        let id = greedy(&logits);
        if id != step.id {
            differing.push(Divergence { step: i, id, stated: step.id, margin: step.margin });
        }
        // The last choice is not fed: nothing would come of it.
        if i + 1 < case.steps.len() {
            logits = model.feed(&[step.id])?;
        }
    }
    let error = errors.iter().copied().fold(error, worse);
    let excusable = |it: &Divergence| {
        let others = errors.iter().enumerate().filter(|(step, _)| *step != it.step);
        it.margin <= 2.0 * others.map(|(_, error)| *error).fold(0.0, worse)
    };
    let passed = match expect {
        Expect::Exact => differing.is_empty() && error <= case.bound,
        Expect::Choices => differing.is_empty() && error.is_finite(),
        Expect::Close => differing.iter().all(excusable) && error.is_finite(),
    };
    let steps = case.steps.len();
    Ok(Outcome {
        name: case.name.clone(),
        passed,
        steps,
        same: steps - differing.len(),
        error,
        bound: (expect == Expect::Exact).then_some(case.bound),
        first: differing.into_iter().next(),
    })
}

/// The larger of an error and |difference|; NaN counts as infinite.
fn worse(error: f32, difference: f32) -> f32 {
    if difference.is_nan() { f32::INFINITY } else { error.max(difference.abs()) }
}
