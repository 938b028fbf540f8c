//! Raw scores, probabilities and row statistics on the device against the oracle.

use phasor::oracle::{self, AttentionInputs, Real};
use phasor::rotary::Pairing;
use phasor::scores::{
    ComponentOrder, Output, RowStatistics, Scores, ScoresBindings, ScoresProblem, ScoresShape,
};
use phasor::{DType, HeadMap, OutputHead, Phase};
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::harness::{Lab, Place, Placed, Result, lab, narrow, random, run_table};

/// One call.
#[derive(Debug, Clone)]
pub struct Case {
    pub problem: ScoresProblem,
    pub shape: ScoresShape,
}

/// q and k, `[B, H, S, D]` without gaps.
pub type Inputs = [Vec<f32>; 2];

impl Case {
    fn shapes(&self) -> [[u32; 4]; 2] {
        let (p, s) = (&self.problem, &self.shape);
        [[s.batch, p.q_heads, s.seq_q, p.head_dim], [s.batch, p.kv_heads, s.seq_k, p.head_dim]]
    }

    /// Scores of a few nats, so that rows look at some keys more than at others.
    pub fn random(&self) -> Inputs {
        let [q, k] = self.shapes();
        [random(q, 2.0, self.problem.q_dtype, 1), random(k, 2.0, self.problem.k_dtype, 2)]
    }

    fn check(&self) -> Result {
        self.check_on(lab())
    }

    fn check_on(&self, lab: &Lab) -> Result {
        let inputs = self.random();
        let lse = match self.problem.output {
            Output::Probabilities(_) => Some(self.lse(&inputs)?),
            _ => None,
        };
        let got = self.run(lab, &inputs, lse.as_deref())?;
        let (truth, naive) = (self.oracle::<f64>(&inputs)?, self.oracle::<f32>(&inputs)?);
        for (name, truth) in &truth {
            let naive = &naive.iter().find(|(other, _)| other == name).ok_or("no naive run")?.1;
            let got = &got.iter().find(|(other, _)| other == name).ok_or("not computed")?.1;
            let bound = Bound::computed(&stored(naive, DType::F32), truth, DType::F32);
            compare(name, got, truth, &bound, [1, 1, 1, truth.len() as u32])?;
        }
        Ok(())
    }

    /// Natural log-sum-exp of all heads, as an attention call would have written it.
    fn lse(&self, inputs: &Inputs) -> Result<Vec<f32>> {
        let map = HeadMap::ropepp(self.problem.q_heads)?;
        let [q, k] = inputs.each_ref().map(|x| widened(x));
        let got = oracle::attention(&self.inputs::<f64>(&q, &k, map.heads()))?;
        Ok(got.lse.into_iter().map(|x| x as f32).collect())
    }

    fn inputs<'a, R: Real>(
        &self,
        q: &'a [R],
        k: &'a [R],
        heads: &'a [OutputHead],
    ) -> AttentionInputs<'a, R> {
        let [q_shape, k_shape] = self.shapes();
        AttentionInputs {
            q,
            q_shape,
            k,
            k_shape,
            v: k,
            v_shape: k_shape,
            rotary_dim: self.problem.rotary_dim,
            pairing: self.problem.pairing,
            heads,
            softmax_scale: self.problem.softmax_scale.into(),
            causal: self.problem.causal,
            q_offset: Some(self.shape.offset()),
            kv_lens: None,
        }
    }

    /// Both components of the chosen heads, by the oracle.
    fn heads(&self) -> Vec<OutputHead> {
        let both =
            |&source| [Phase::REAL, Phase::IMAGINARY].map(|phase| OutputHead { source, phase });
        self.problem.heads.iter().flat_map(both).collect()
    }

    /// By name: one tensor for scores and probabilities, in the window; one for each statistic.
    fn oracle<R: Real>(&self, inputs: &Inputs) -> Result<Vec<(&'static str, Vec<R>)>> {
        let [q, k] = inputs
            .each_ref()
            .map(|x| x.iter().map(|&x| R::from_f64(f64::from(x))).collect::<Vec<R>>());
        let heads = self.heads();
        let inputs = self.inputs(&q, &k, &heads);
        let ScoresShape { batch, seq_q, seq_k, .. } = self.shape;
        let (seq_q, seq_k, n) = (seq_q as usize, seq_k as usize, heads.len());
        if let Output::Statistics { distance } = self.problem.output {
            let all = oracle::statistics(&inputs, distance)?;
            let window = self.shape.queries.clone();
            let mut rows = Vec::new();
            for plane in 0..batch as usize * n {
                let first = plane * seq_q;
                rows.extend(all[first..][window.start as usize..window.end as usize].to_vec());
            }
            let of = |f: fn(&oracle::Statistics<R>) -> R| rows.iter().map(f).collect();
            return Ok(vec![
                ("lse", of(|row| row.lse)),
                ("entropy", of(|row| row.entropy)),
                ("mean distance", of(|row| row.mean_distance)),
                ("mass within", of(|row| row.mass_within)),
                ("mass beyond", of(|row| row.mass_beyond)),
                ("mass first", of(|row| row.mass_first)),
            ]);
        }
        let all = match self.problem.output {
            Output::Probabilities(_) => oracle::probabilities(&inputs)?,
            _ => {
                let (re, im) = oracle::scores(&inputs)?;
                self.masked_scores(&re, &im)
            }
        };
        let mut window = Vec::new();
        for plane in 0..batch as usize * n {
            for i in self.shape.queries.clone() {
                for j in self.shape.keys.clone() {
                    window.push(all[(plane * seq_q + i as usize) * seq_k + j as usize]);
                }
            }
        }
        Ok(vec![("window", window)])
    }

    /// Scaled and masked scores `[B, 2 heads, Sq, Sk]` of the chosen heads.
    fn masked_scores<R: Real>(&self, re: &[R], im: &[R]) -> Vec<R> {
        let ScoresShape { batch, seq_q, seq_k, .. } = self.shape;
        let scale = R::from_f64(self.problem.softmax_scale.into());
        let mut all = Vec::new();
        for b in 0..batch {
            for &head in &self.problem.heads {
                for component in [re, im] {
                    for i in 0..seq_q {
                        for j in 0..seq_k {
                            let seen = i64::from(i) + self.shape.offset() >= i64::from(j);
                            let plane = b * self.problem.q_heads + head;
                            let at = ((plane * seq_q + i) * seq_k + j) as usize;
                            all.push(match seen || !self.problem.causal {
                                true => component[at] * scale,
                                false => R::NEG_INFINITY,
                            });
                        }
                    }
                }
            }
        }
        all
    }

    /// The kernel on guarded tensors, in the oracle's order.
    pub fn run(
        &self,
        lab: &Lab,
        inputs: &Inputs,
        lse: Option<&[f32]>,
    ) -> Result<Vec<(&'static str, Vec<f32>)>> {
        let p = &self.problem;
        let gpu = &lab.gpu;
        let kernel = lab.scores(p)?;
        let [q_shape, k_shape] = self.shapes();
        let q = Placed::input(gpu, p.q_dtype, Place::Gaps.layout(q_shape)?, &inputs[0]);
        let k = Placed::input(gpu, p.k_dtype, Place::BshdGaps.layout(k_shape)?, &inputs[1]);
        let elements = kernel.plan().output_bytes(&self.shape) as u32 / 4;
        let dense = Place::Bhsd.layout([1, 1, 1, elements])?;
        let out = Placed::output(gpu, DType::F32, dense);
        let lse = lse.map(|lse| gpu.upload(lse, DType::F32));
        let bindings = ScoresBindings {
            q: q.tensor(),
            k: k.tensor(),
            out: out.binding(),
            lse: lse.as_ref().map(|lse| lse.as_entire_buffer_binding()),
        };
        let dispatch = kernel.bind(&gpu.device, &self.shape, &bindings)?;
        gpu.run(|encoder| dispatch.encode(encoder));
        let got = out.read(gpu)?;
        let rows = self.shape.queries.len();
        Ok(match p.output {
            Output::Statistics { .. } => statistics_by_name(rows_of(&got), rows),
            Output::Scores(components) | Output::Probabilities(components) => {
                let plane = rows * self.shape.keys.len();
                vec![(
                    "window",
                    match components {
                        ComponentOrder::Planes => got,
                        ComponentOrder::Pairs => planes(&got, plane),
                    },
                )]
            }
        })
    }
}

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `[…, plane, 2]` as `[…, 2, plane]`.
fn planes(pairs: &[f32], plane: usize) -> Vec<f32> {
    let component = |pairs: &[f32], n| pairs.iter().skip(n).step_by(2).copied().collect::<Vec<_>>();
    pairs.chunks(2 * plane).flat_map(|x| [component(x, 0), component(x, 1)].concat()).collect()
}

fn rows_of(x: &[f32]) -> Vec<RowStatistics> {
    let row = |x: &[f32]| RowStatistics {
        lse: x[0],
        entropy: x[1],
        mean_distance: x[2],
        mass_within: x[3],
        mass_beyond: x[4],
        mass_first: x[5],
    };
    x.chunks_exact(6).map(row).collect()
}

/// From `[heads, rows, 2]` to `[heads, 2, rows]`, by the name of each number.
fn statistics_by_name(all: Vec<RowStatistics>, rows: usize) -> Vec<(&'static str, Vec<f32>)> {
    let mut turned = Vec::new();
    for head in all.chunks(2 * rows) {
        for component in 0..2 {
            turned.extend(head.iter().skip(component).step_by(2).copied());
        }
    }
    let of = |f: fn(&RowStatistics) -> f32| turned.iter().map(f).collect();
    vec![
        ("lse", of(|row| row.lse)),
        ("entropy", of(|row| row.entropy)),
        ("mean distance", of(|row| row.mean_distance)),
        ("mass within", of(|row| row.mass_within)),
        ("mass beyond", of(|row| row.mass_beyond)),
        ("mass first", of(|row| row.mass_first)),
    ]
}

fn cases() -> Vec<(String, Case)> {
    let mut all = Vec::new();
    let outputs = |components| {
        [
            Output::Scores(components),
            Output::Probabilities(components),
            Output::Statistics { distance: 7 },
        ]
    };
    let mut add = |name: &str, problem: ScoresProblem, shape: ScoresShape| {
        for output in outputs(ComponentOrder::Planes) {
            let shape = match output {
                Output::Statistics { .. } => ScoresShape { keys: 0..shape.seq_k, ..shape.clone() },
                _ => shape.clone(),
            };
            let problem = ScoresProblem { output, ..problem.clone() };
            all.push((format!("{name}, {output:?}"), Case { problem, shape }));
        }
    };
    let plain = ScoresProblem::new(4, 2, 32);
    let square = ScoresShape::new(2, 70, 70);
    add("causal", plain.clone(), square.clone());
    add("full", ScoresProblem { causal: false, ..plain.clone() }, square.clone());
    let chosen = ScoresProblem { heads: vec![3, 0, 3], ..plain.clone() };
    let window = ScoresShape { queries: 33..68, keys: 5..64, ..square.clone() };
    add("chosen heads in a window", chosen, window);
    let decode = ScoresShape { query_offset: None, ..ScoresShape::new(1, 3, 90) };
    add("the last rows of many keys", plain.clone(), decode.clone());
    // Rows in front of all keys see none of them.
    let early = ScoresShape { query_offset: Some(-2), ..ScoresShape::new(1, 6, 40) };
    add("rows that see nothing", plain.clone(), early);
    let partial = ScoresProblem { rotary_dim: 12, ..ScoresProblem::new(2, 1, 20) };
    add("a tail", partial.clone(), square.clone());
    add("interleaved", ScoresProblem { pairing: Pairing::Interleaved, ..partial }, square.clone());
    let blocks = ScoresProblem { pairing: Pairing::HalfBlocks(2), ..plain.clone() };
    add("blocks", blocks, square.clone());
    let f16 = ScoresProblem { q_dtype: DType::F16, k_dtype: DType::F16, ..plain.clone() };
    add("f16", f16, square.clone());
    for output in &outputs(ComponentOrder::Pairs)[..2] {
        let problem = ScoresProblem { output: *output, ..plain.clone() };
        let shape = ScoresShape { queries: 1..40, keys: 30..37, ..square.clone() };
        all.push((format!("{output:?}"), Case { problem, shape }));
    }
    all
}

#[test]
fn scores_and_statistics_are_the_oracles() {
    run_table(&cases(), Case::check);
}

#[test]
fn least_devices_give_the_same() {
    let output = Output::Statistics { distance: 3 };
    let problem = ScoresProblem { output, ..ScoresProblem::new(2, 1, 16) };
    Case { problem, shape: ScoresShape::new(1, 300, 300) }.check_on(narrow()).unwrap();
    let output = Output::Scores(ComponentOrder::Planes);
    let problem = ScoresProblem { output, ..ScoresProblem::new(1, 1, 16) };
    let window = ScoresShape { queries: 0..100, keys: 50..130, ..ScoresShape::new(1, 300, 300) };
    Case { problem, shape: window }.check_on(narrow()).unwrap();
}

#[test]
fn a_window_of_nothing_is_an_empty_call() {
    let gpu = &lab().gpu;
    let plan = ScoresProblem::new(1, 1, 32).plan(&gpu.capabilities()).unwrap();
    let kernel = Scores::new(&gpu.device, &plan).unwrap();
    let buffers = [(); 3].map(|()| gpu.output(4 * 32, DType::F32));
    let layout = phasor::Layout::bhsd([1, 1, 4, 32]).unwrap();
    let tensor = |n: usize| phasor::Tensor::new(&buffers[n], DType::F32, layout);
    let out = buffers[2].as_entire_buffer_binding();
    let bindings = ScoresBindings { q: tensor(0), k: tensor(1), out, lse: None };
    let is_empty = |shape| kernel.bind(&gpu.device, &shape, &bindings).unwrap().is_empty();
    assert!(is_empty(ScoresShape { queries: 2..2, ..ScoresShape::new(1, 4, 4) }));
    assert!(!is_empty(ScoresShape::new(1, 4, 4)));
}
