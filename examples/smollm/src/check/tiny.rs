//! The RoPE++ authors' tiny models: a safetensors file that holds weights, a prompt, all its logits
//! and six greedy steps, as `tests/data/golden/README.md` describes them.

use std::path::Path;

use phasor_kit::golden::File;

use super::{Case, Step};
use crate::Result;

/// The README's bound on logits.
const BOUND: f32 = 5e-5;

pub(super) fn read(path: &Path) -> Result<Vec<Case>> {
    let file = File::read(path).map_err(|e| e.to_string())?;
    let ids = |name: &str| -> Result<Vec<u32>> {
        let (_, ids) = file.integers(name).map_err(|e| e.to_string())?;
        Ok(ids.iter().map(|&id| id as u32).collect())
    };
    let rows = |name: &str| -> Result<Vec<Vec<f32>>> {
        let tensor = file.tensor(name).map_err(|e| e.to_string())?;
        let width = *tensor.shape.last().ok_or("logits without a shape")?;
        Ok(tensor.data.chunks(width.max(1)).map(<[f32]>::to_vec).collect())
    };
    let (prompt, tokens) = (ids("input_ids")?, ids("greedy_tokens")?);
    let (prompt_logits, after) = (rows("logits")?, rows("greedy_step_logits")?);
    if prompt_logits.len() != prompt.len() || after.len() != tokens.len() || prompt.is_empty() {
        return Err("one row of logits must be there for each token".into());
    }
    // Token i is chosen from the logits behind token i - 1, the first from those of the prompt.
    let before = prompt_logits.last().into_iter().chain(&after);
    let mut steps: Vec<Step> = tokens
        .iter()
        .zip(before)
        .map(|(&id, logits)| Step { id, known: known(logits), margin: margin(logits) })
        .collect();
    // The logits behind the last token are stated too: one more step, whose choice is theirs.
    if let Some(logits) = after.last() {
        let id = crate::sampler::greedy(logits);
        steps.push(Step { id, known: known(logits), margin: margin(logits) });
    }
    Ok(vec![Case { name: file.name.clone(), prompt, prompt_logits, steps, bound: BOUND }])
}

fn known(logits: &[f32]) -> Vec<(u32, f32)> {
    (0..).zip(logits.iter().copied()).collect()
}

fn margin(logits: &[f32]) -> f32 {
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    match sorted[..] {
        [first, second, ..] => first - second,
        _ => f32::INFINITY,
    }
}
