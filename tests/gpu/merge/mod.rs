//! Merging parts, held to the oracle and to attention over all keys.

use phasor::merge::{Merge, MergeBindings, MergeProblem, MergeShape};
use phasor::oracle::{self, Attended, Real};
use phasor::{DType, Layout};
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::harness::{Place, Placed, Result, execute, lab, random, run_table};

/// One call.
#[derive(Debug, Clone)]
pub struct Case {
    pub problem: MergeProblem,
    pub shape: MergeShape,
    /// Every n-th part of a row saw no key, and holds NaN; 1: all of them.
    pub empty: Option<usize>,
}

impl Case {
    pub fn new(parts: u32, value_dim: u32) -> Self {
        let problem = MergeProblem { lse: true, ..MergeProblem::new(value_dim) };
        let shape = MergeShape { parts, batch: 2, heads: 3, seq: 5 };
        Self { problem, shape, empty: None }
    }

    fn parts_shape(&self) -> [u32; 4] {
        let MergeShape { parts, batch, heads, seq } = self.shape;
        [parts, batch * heads, seq, self.problem.value_dim]
    }

    /// Outputs and log-sum-exps of the parts.
    pub fn parts(&self) -> (Vec<f32>, Vec<f32>) {
        let MergeShape { parts, batch, heads, seq } = self.shape;
        let mut x = random(self.parts_shape(), 2.0, self.problem.part_dtype, 1);
        let mut lses = random([parts, batch, heads, seq], 8.0, DType::F32, 2);
        let dim = self.problem.value_dim as usize;
        for n in 0..lses.len() {
            if self.empty.is_some_and(|every| n % every == 0) {
                lses[n] = f32::NEG_INFINITY;
                x[n * dim..][..dim].fill(f32::NAN);
            }
        }
        (x, lses)
    }

    pub fn run(&self, x: &[f32], lses: &[f32]) -> Result<Attended<f32>> {
        let gpu = &lab().gpu;
        let MergeShape { batch, heads, seq, .. } = self.shape;
        let p = &self.problem;
        let part = Placed::input(gpu, p.part_dtype, Place::Gaps.layout(self.parts_shape())?, x);
        let lse_parts = gpu.upload(lses, DType::F32);
        let out_shape = [batch, heads, seq, p.value_dim];
        let out = Placed::output(gpu, p.out_dtype, Place::BshdGaps.layout(out_shape)?);
        let lse = Placed::output(gpu, DType::F32, Layout::bhsd([batch, heads, seq, 1])?);
        let kernel = Merge::new(&gpu.device, &p.plan(&gpu.capabilities())?)?;
        let bindings = MergeBindings {
            parts: part.tensor(),
            lse_parts: lse_parts.as_entire_buffer_binding(),
            out: out.tensor(),
            lse: p.lse.then(|| lse.binding()),
        };
        let call = kernel.bind(&gpu.device, &self.shape, &bindings)?;
        if call.is_empty() != out_shape.contains(&0) {
            return Err("empty, but its output is not, or the other way round".into());
        }
        execute(gpu, &call);
        Ok(Attended { out: out.read(gpu)?, lse: lse.read(gpu)? })
    }

    pub fn check(&self) -> Result {
        let MergeShape { batch, heads, seq, .. } = self.shape;
        let p = &self.problem;
        let (x, lses) = self.parts();
        let got = self.run(&x, &lses)?;
        if got.out.is_empty() {
            return Ok(());
        }
        let truth = self.reference::<f64>(&x, &lses)?;
        let naive = self.reference::<f32>(&x, &lses)?;
        let bound = Bound::computed(&stored(&naive.out, p.out_dtype), &truth.out, p.out_dtype);
        compare("out", &got.out, &truth.out, &bound, [batch, heads, seq, p.value_dim])?;
        let bound = Bound::computed(&naive.lse, &truth.lse, DType::F32);
        compare("lse", &got.lse, &truth.lse, &bound, [batch, heads, seq, 1])?;
        Ok(())
    }

    pub fn reference<R: Real>(&self, x: &[f32], lses: &[f32]) -> Result<Attended<R>> {
        let narrow = |x: &[f32]| x.iter().map(|&x| R::from_f64(f64::from(x))).collect::<Vec<R>>();
        let n = self.shape.parts as usize;
        let parts = x.chunks(x.len() / n).zip(lses.chunks(lses.len() / n));
        let parts: Vec<_> =
            parts.map(|(out, lse)| Attended { out: narrow(out), lse: narrow(lse) }).collect();
        let MergeShape { batch, heads, seq, .. } = self.shape;
        let rows = 0..(batch * heads * seq) as usize;
        let head = |row: usize| row / seq as usize % heads as usize;
        let sinks: Vec<R> = match self.problem.sinks.as_slice() {
            [] => Vec::new(),
            sinks => rows.map(|row| R::from_f64(f64::from(sinks[head(row)]))).collect(),
        };
        Ok(oracle::merge_states(&parts, (!sinks.is_empty()).then_some(&sinks))?)
    }
}

#[test]
fn parts() {
    let mut cases = Vec::new();
    for parts in [1, 2, 7, 33] {
        for value_dim in [4, 64, 72] {
            cases.push((format!("{parts} parts of {value_dim}"), Case::new(parts, value_dim)));
        }
    }
    for every in [1, 2, 3] {
        let case = Case { empty: Some(every), ..Case::new(4, 8) };
        cases.push((format!("one of {every} empty"), case));
    }
    for empty in [None, Some(1), Some(2)] {
        let mut case = Case { empty, ..Case::new(4, 8) };
        case.problem.sinks = vec![1.0, f32::NEG_INFINITY, -30.0];
        cases.push((format!("sinks, empty: {empty:?}"), case));
    }
    // More heads than the shortest table of sinks has room for.
    for heads in [16, 17, 70] {
        for sinks in [Vec::new(), (0..heads).map(|h| h as f32 / 8.0).collect()] {
            let name = format!("{heads} heads, {} sinks", sinks.len());
            let mut case = Case::new(2, 8);
            (case.shape.heads, case.problem.sinks) = (heads, sinks);
            cases.push((name, case));
        }
    }
    for (part_dtype, out_dtype) in [(DType::F16, DType::F32), (DType::F32, DType::F16)] {
        let mut case = Case::new(3, 16);
        (case.problem.part_dtype, case.problem.out_dtype) = (part_dtype, out_dtype);
        cases.push((format!("{part_dtype} to {out_dtype}"), case));
    }
    run_table(&cases, Case::check);
}
