//! Greedy continuations in JSON, as `tests/data/real/README.md` describes them.

use serde_json::Value;

use super::{Case, Step};
use crate::Result;

/// Numbers are written with five decimals.
const WRITTEN: f32 = 5e-6;

pub(super) fn parse(file: &Value) -> Result<Vec<Case>> {
    let cases = file.get("cases").and_then(Value::as_array).ok_or("no list of cases")?;
    cases.iter().enumerate().map(|(i, value)| case(i, value)).collect()
}

fn case(index: usize, case: &Value) -> Result<Case> {
    let kind = case.get("kind").and_then(Value::as_str).unwrap_or("case");
    let start: String =
        case.get("prompt").and_then(Value::as_str).unwrap_or("").chars().take(48).collect();
    let name = format!("{index} {kind} {start:?}");
    let list = |key: &str| {
        let list = case.get(key).and_then(Value::as_array);
        list.ok_or_else(|| format!("{name}: no list {key}"))
    };
    let floats = |key: &str| -> Result<Vec<f32>> {
        let floats = list(key)?.iter().map(|it| it.as_f64().map(|it| it as f32));
        floats.collect::<Option<_>>().ok_or_else(|| format!("{name}: {key}: no number").into())
    };
    let ids = |key: &str| -> Result<Vec<u32>> {
        let ids = list(key)?.iter().map(|it| it.as_u64().and_then(|it| u32::try_from(it).ok()));
        ids.collect::<Option<_>>().ok_or_else(|| format!("{name}: {key}: no token").into())
    };
    let (output, top1) = (ids("output_ids")?, floats("top1_logits")?);
    let (margins, second) = (floats("margins")?, ids("runner_up_ids")?);
    let n = output.len();
    if n == 0 || [top1.len(), margins.len(), second.len()] != [n; 3] {
        return Err(format!("{name}: its lists must have one entry for each of {n} steps").into());
    }
    let noise = case.get("f32_vs_f64_max_logit_diff").and_then(Value::as_f64);
    let noise = noise.ok_or_else(|| format!("{name}: no f32_vs_f64_max_logit_diff"))? as f32;
    let steps = (0..n).map(|i| Step {
        id: output[i],
        known: vec![(output[i], top1[i]), (second[i], top1[i] - margins[i])],
        margin: margins[i],
    });
    // The project's rule for f32: twice the error of another f32 program, and a floor. A second
    // logit is a difference of two written numbers.
    let bound = 2.0 * noise + 2.0 * WRITTEN;
    Ok(Case {
        prompt: ids("prompt_ids")?,
        prompt_logits: Vec::new(),
        steps: steps.collect(),
        bound,
        name,
    })
}
