//! The backward pass of linear attention on the device against the oracle. Outputs of the forward
//! pass come from the oracle, so that gradients alone are judged.

pub mod wrong_calls;

use phasor::linear_attention::{self, LinearAttentionProblem, LinearAttentionShape};
use phasor::linear_attention_backward::{
    LinearAttentionBackwardBindings, LinearAttentionBackwardProblem,
};
use phasor::oracle::{self, LinearInputs, Real};
use phasor::rotary::{Pairing, RopeConfig, RopeRule, Xpos};
use phasor::{DType, HeadMap, OutputHead, Phase, wgpu};
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::harness::{Ids, Place, Placed, Result, Rotation, execute, lab, random, run_table};
use crate::linear_attention::{Case as Forward, Inputs, State};

#[derive(Debug, Clone)]
pub struct Case(pub Forward);

/// dq, dk and dv.
type Gradients = [Vec<f32>; 3];

impl Case {
    pub fn new(problem: LinearAttentionProblem) -> Self {
        Self(Forward::new(problem))
    }

    fn d_out(&self) -> Vec<f32> {
        random(self.0.shapes()[3], 1.0, self.0.problem.out_dtype, 4)
    }

    /// Random inputs through the kernel, held to the oracle.
    pub fn check(&self) -> Result {
        let (inputs, d_out) = (self.0.random(), self.d_out());
        let out = self.out(&inputs)?;
        let (got, _) = self.run(&inputs, [&out, &d_out], None)?;
        self.hold(&inputs, &d_out, &got)
    }

    /// What the forward pass gives.
    fn out(&self, inputs: &Inputs) -> Result<Vec<f32>> {
        let out = oracle::linear_attention(&self.0.exact(inputs)?.inputs(&self.0))?;
        let out: Vec<f32> = out.into_iter().map(|x| x as f32).collect();
        Ok(stored(&out, self.0.problem.out_dtype))
    }

    fn hold(&self, inputs: &Inputs, d_out: &[f32], got: &Gradients) -> Result {
        let case = &self.0;
        let rotation = case.rotation.as_ref();
        let turns = |key| rotation.map(|rotation| rotation.exact(key)).transpose();
        let (q, k) = (turns(false)?, turns(true)?);
        let truth = self.owed(inputs, d_out, &case.exact(inputs)?.inputs(case), [&q, &k])?;
        let turns = |key| rotation.map(|rotation| rotation.rounded(key)).transpose();
        let (q, k) = (turns(false)?, turns(true)?);
        let naive = self.owed(inputs, d_out, &case.naive(inputs)?.inputs(case), [&q, &k])?;
        // An output that was rounded when it was stored shifts r by as much.
        let rounding = match case.problem.out_dtype {
            DType::F32 => 1e-6,
            DType::F16 => 4e-3,
        };
        for (n, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
            let bound = match Bound::computed(&naive[n], &truth[n], DType::F32) {
                Bound::Uniform(bound) => {
                    let largest = truth[n].iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                    Bound::Uniform(bound + rounding * largest)
                }
                other => other,
            };
            compare(name, &got[n], &truth[n], &bound, case.shapes()[n])?;
        }
        Ok(())
    }

    /// Gradients with respect to q, k and v by the oracle.
    fn owed<R: Real>(
        &self,
        inputs: &Inputs,
        d_out: &[f32],
        features: &LinearInputs<'_, R>,
        turns: [&Option<impl Fn(u32, u32, u32) -> (R, R)>; 2],
    ) -> Result<[Vec<R>; 3]> {
        let p = &self.0.problem;
        let wide = |x: &[f32]| x.iter().map(|&x| R::from_f64(x.into())).collect::<Vec<R>>();
        let all = oracle::linear_attention_backward(features, &wide(d_out))?;
        let owed = |n: usize, rotated: &[R], plain: &[R]| -> Result<Vec<R>> {
            let back = match turns[n] {
                None => rotated.to_vec(),
                Some(turn) => {
                    let shape = self.0.shapes()[n];
                    oracle::unrope(rotated, shape, p.rotary_dim, p.pairing, turn)?
                }
            };
            let slopes = oracle::elu_plus_one_slope(&wide(&inputs[n]));
            let sums = back.into_iter().zip(plain).zip(slopes);
            Ok(sums.map(|((a, &b), slope)| (a + b) * slope).collect())
        };
        Ok([owed(0, &all.d_q_rotated, &all.d_q)?, owed(1, &all.d_k_rotated, &all.d_k)?, all.dv])
    }

    /// The kernel on guarded tensors, from the state before the call and the gradient of the one
    /// after it: gradients, and that of the state before.
    fn run(
        &self,
        inputs: &Inputs,
        [out, d_out]: [&[f32]; 2],
        states: Option<[&State; 2]>,
    ) -> Result<(Gradients, State)> {
        let (case, p) = (&self.0, &self.0.problem);
        let gpu = &lab().gpu;
        let problem = LinearAttentionBackwardProblem::new(p.clone());
        let kernel = lab().linear_attention_backward(&problem)?;
        let shapes = case.shapes();
        let input = |n: usize, dtype, x: &[f32]| -> Result<Placed> {
            Ok(Placed::input(gpu, dtype, case.places[n].layout(shapes[n])?, x))
        };
        let tensors = [
            input(0, p.q_dtype, &inputs[0])?,
            input(1, p.kv_dtype, &inputs[1])?,
            input(2, p.kv_dtype, &inputs[2])?,
            input(3, p.out_dtype, out)?,
            input(3, p.out_dtype, d_out)?,
        ];
        // Gradients lie at odd places.
        let output = |n: usize| -> Result<Placed> {
            Ok(Placed::output(gpu, DType::F32, Place::Odd(3).layout(shapes[n])?))
        };
        let grads = [output(0)?, output(1)?, output(2)?];
        let mut shape = case.shape;
        shape.resume = states.is_some();
        let workspace = gpu.output(kernel.plan().workspace_bytes(&shape) as usize / 4, DType::F32);
        let planes = (shape.batch * p.kv_heads) as usize;
        let lens = [planes * (p.head_dim * p.value_dim) as usize, planes * p.head_dim as usize];
        let (unread, nothing) = (lens.map(|n| vec![f32::NAN; n]), lens.map(|n| vec![0.0; n]));
        let [before, after] = states.unwrap_or([&unread, &nothing]);
        let [before, after] =
            [before, after].map(|state| state.each_ref().map(|x| gpu.upload(x, DType::F32)));
        let uploaded = match &case.rotation {
            Some(rotation) => {
                Some(rotation.upload(gpu, shape.batch, shape.seq_q.max(shape.seq_k))?)
            }
            None => None,
        };
        let of = |n: usize| tensors[n].tensor();
        let mut bindings = LinearAttentionBackwardBindings::new(
            [of(0), of(1), of(2)],
            of(3),
            of(4),
            [0, 1, 2].map(|n| grads[n].tensor()),
            workspace.as_entire_buffer_binding(),
        );
        bindings.rotation = uploaded.as_ref().map(|uploaded| uploaded.rotation());
        if p.state {
            bindings.state = Some(bind(&before));
            bindings.d_state = Some(bind(&after));
        }
        let call = kernel.bind(&gpu.device, &shape, &bindings)?;
        execute(gpu, &call);
        let left = [0, 1].map(|n| {
            let mut x = gpu.download(&after[n], DType::F32);
            x.truncate(lens[n]);
            x
        });
        Ok(([grads[0].read(gpu)?, grads[1].read(gpu)?, grads[2].read(gpu)?], left))
    }
}

/// Both components, by a table that scales what it turns, queries and keys apart.
pub fn scaled() -> Result<Case> {
    let plain = Forward::plain(2, 1, 32)?;
    let mut case = Case::new(LinearAttentionProblem { heads: HeadMap::ropepp(2)?, ..plain });
    let rule = RopeRule::YarnRotations {
        factor: 4.0,
        original_max_position_embeddings: 64,
        alpha: 1.0,
        beta: 4.0,
    };
    let config = RopeConfig { rule, ..RopeConfig::new(32, 500.0) };
    case.0.rotation = Some(Rotation {
        xpos: Some(Xpos { scale_base: 64.0, centre: 40, gamma: 0.4 }),
        ..Rotation::new(config, Ids::From(3))
    });
    Ok(case)
}

fn cases() -> Result<Vec<(String, Case)>> {
    let mut all = Vec::new();
    let mut add = |name: &str, case| all.push((name.to_owned(), case));
    let plain = Forward::plain(2, 1, 32)?;
    let full = LinearAttentionProblem { causal: false, ..plain.clone() };
    for seq in [1, 31, 32, 33, 65] {
        for (name, problem) in [("causal", &plain), ("full", &full)] {
            let mut case = Case::new(problem.clone());
            case.0.shape = LinearAttentionShape::new(2, seq);
            add(&format!("{name}, {seq} tokens"), case);
        }
    }
    for (seq_q, seq_k) in [(5, 90), (90, 5), (3, 0), (0, 3)] {
        let mut case = Case::new(full.clone());
        case.0.shape = LinearAttentionShape { batch: 2, seq_q, seq_k, resume: false };
        add(&format!("{seq_q} queries, {seq_k} keys"), case);
    }
    let mut case = Case::new(plain.clone());
    case.0.places = [Place::BshdGaps, Place::Gaps, Place::BshdGaps, Place::Odd(4)];
    add("other places", case);
    let small = LinearAttentionProblem { rotary_dim: 0, ..Forward::plain(1, 1, 4)? };
    add("D 4, nothing rotates", Case::new(small));
    // A query head that feeds no output, and one that feeds two; a kv head whose queries do not.
    let phase = |source, phi| OutputHead { source, phase: Phase::radians(phi) };
    let heads = HeadMap::new(6, vec![phase(3, 0.4), phase(0, -2.0), phase(3, 1.0)])?;
    let phases = LinearAttentionProblem {
        heads,
        rotary_dim: 12,
        pairing: Pairing::InterleavedToHalf,
        value_dim: 36,
        q_dtype: DType::F16,
        kv_dtype: DType::F16,
        out_dtype: DType::F16,
        ..Forward::plain(6, 3, 72)?
    };
    add("f16, D 72, D_v 36, phases of grouped heads, partly rotated", Case::new(phases));
    add("both components, a table with scales", scaled()?);
    Ok(all)
}

/// What one kernel computes is in one half: a software adapter compiles it for half a minute.
fn half(n: usize) {
    let cases = cases().unwrap();
    let [causal, full] = [0, 1].map(|i| cases[i].1.0.problem.clone());
    let of = |i: usize, case: &Case| match &case.0.problem {
        problem if *problem == causal => 0,
        problem if *problem == full => 1,
        _ => i % 2,
    };
    let mine = cases.iter().enumerate().filter(|(i, (_, case))| of(*i, case) == n);
    run_table(mine.map(|(_, case)| case), Case::check);
}

#[test]
fn gradients_are_those_of_the_sums_1_of_2() {
    half(0);
}

#[test]
fn gradients_are_those_of_the_sums_2_of_2() {
    half(1);
}

/// Rows of the second part of every tensor, `[B, H, S, D]` without gaps.
fn tokens(x: &[f32], [_, _, seq, dim]: [u32; 4], range: core::ops::Range<u32>) -> Vec<f32> {
    let plane = (seq * dim) as usize;
    let part = (range.start * dim) as usize..(range.end * dim) as usize;
    x.chunks_exact(plane).flat_map(|plane| plane[part.clone()].to_vec()).collect()
}

/// A sequence in two calls: the second one's gradient of its state is what the first one goes on
/// from. And a sequence without the batch around it.
#[test]
fn the_same_bits_in_parts_and_in_another_batch() {
    let problem = LinearAttentionProblem { state: true, ..Forward::plain(2, 1, 32).unwrap() };
    let mut whole = Case::new(problem);
    whole.0.rotation = Some(Rotation::new(RopeConfig::new(32, 1e4), Ids::From(0)));
    let seq = whole.0.shape.seq_q;
    let (inputs, d_out) = (whole.0.random(), whole.d_out());
    let out = whole.out(&inputs).unwrap();
    let (once, start) = whole.run(&inputs, [&out, &d_out], None).unwrap();
    whole.hold(&inputs, &d_out, &once).unwrap();
    assert_eq!(whole.run(&inputs, [&out, &d_out], None).unwrap(), (once.clone(), start.clone()));

    let problem = LinearAttentionBackwardProblem::new(whole.0.problem.clone());
    let chunk = lab().linear_attention_backward(&problem).unwrap().plan().chunk();
    let shapes = whole.0.shapes();
    let part = |range: core::ops::Range<u32>| {
        let mut case = whole.clone();
        case.0.shape = LinearAttentionShape::new(2, range.end - range.start);
        let config = RopeConfig::new(32, 1e4);
        case.0.rotation = Some(Rotation::new(config, Ids::From(range.start)));
        let own = [0, 1, 2].map(|n| tokens(&inputs[n], shapes[n], range.clone()));
        let [out, d_out] = [&out, &d_out].map(|x| tokens(x, shapes[3], range.clone()));
        (case, own, out, d_out, range)
    };
    let (first, second) = (part(0..chunk), part(chunk..seq));
    let zeros: State = start.each_ref().map(|x| vec![0.0; x.len()]);
    let (_, between) = first.0.0.run(lab(), &first.1, None).unwrap();
    let run = |part: &(Case, Inputs, Vec<f32>, Vec<f32>, _), states| {
        part.0.run(&part.1, [&part.2, &part.3], Some(states)).unwrap()
    };
    let (late, owed) = run(&second, [&between, &zeros]);
    let (early, left) = run(&first, [&zeros, &owed]);
    assert_eq!(left, start, "the gradient of the state that the sequence starts from");
    for (got, range) in [(late, second.4), (early, first.4)] {
        for n in 0..3 {
            assert_eq!(got[n], tokens(&once[n], shapes[n], range.clone()), "{n} of {range:?}");
        }
    }

    let half = |x: &Vec<f32>| x[..x.len() / 2].to_vec();
    let mut alone = whole.clone();
    alone.0.shape.batch = 1;
    let inputs = inputs.each_ref().map(half);
    let (one, _) = alone.run(&inputs, [&half(&out), &half(&d_out)], None).unwrap();
    assert_eq!(one, once.each_ref().map(half));
}

fn bind(state: &[wgpu::Buffer; 2]) -> linear_attention::State<'_> {
    let [s, z] = state.each_ref().map(|x| x.as_entire_buffer_binding());
    linear_attention::State { s, z }
}
