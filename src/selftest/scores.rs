//! The probe of scores.

use super::attention::attention_inputs;
use super::inputs::{numbers, wide};
use super::memory::Contents;
use super::probes::{Expected, Ready};
use crate::oracle;
use crate::plan::scores::{ScoresProblem, ScoresShape};
use crate::scores::{Scores, ScoresBindings};
use crate::{Capabilities, DType, HeadMap, Layout, Result};

/// A plane of real scores and one of imaginary ones.
pub(super) fn scores(device: &wgpu::Device, caps: &Capabilities) -> Result<Ready> {
    let (rows, keys) = (20, 70);
    let heads = HeadMap::plain(1)?;
    let (q, k) = (numbers(rows * 64, 1), numbers(keys * 64, 2));
    let problem = ScoresProblem { causal: false, ..ScoresProblem::new(1, 1, 64) };
    let scale = f64::from(problem.softmax_scale);
    let (wide_q, wide_k) = (wide::<f64>(&q), wide::<f64>(&k));
    let exact = [&wide_q[..], &wide_k, &wide_k];
    let (re, im) = oracle::scores(&attention_inputs(exact, [rows, keys], 64, &heads))?;
    let truth = re.into_iter().chain(im).map(|s| s * scale).collect();
    let (re, im) = oracle::scores(&attention_inputs([&q, &k, &k], [rows, keys], 64, &heads))?;
    let naive: Vec<f32> = re.into_iter().chain(im).map(|s| s * problem.softmax_scale).collect();
    let kernel = Scores::new(device, &problem.plan(caps)?)?;
    let mut contents = Contents::new(caps);
    let [q, k] = [q, k].map(|x| contents.numbers(&x, DType::F32));
    let out = contents.output(naive.len(), DType::F32);
    let memory = contents.upload(device);
    let bindings = ScoresBindings {
        q: memory.tensor(q, DType::F32, Layout::bhsd([1, 1, rows, 64])?),
        k: memory.tensor(k, DType::F32, Layout::bhsd([1, 1, keys, 64])?),
        out: memory.at(out),
        lse: None,
    };
    let dispatch = kernel.bind(device, &ScoresShape::new(1, rows, keys), &bindings)?;
    Ok(Ready {
        dispatch,
        memory,
        outputs: vec![(out, Expected::new("out", DType::F32, truth, &naive))],
    })
}
