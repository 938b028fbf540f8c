//! The backward pass on the device against the oracle: what a case is, and how it runs. Results of
//! the forward pass come from the oracle, so that gradients alone are judged.

mod laws;
mod tables;
pub mod wrong_calls;

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::attention_backward::{
    AttentionBackwardBindings, AttentionBackwardPlan, AttentionBackwardProblem, BackwardRotation,
    BlockedTile, Tile,
};
use phasor::oracle::{self, AttentionGradients, AttentionInputs, Place as At, Real, Upstream};
use phasor::{Bias, Budget, DType, HeadMap, Layout, wgpu};
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::attention::variants::{Scores, in_stripes};
use crate::harness::{Lab, Place, Placed, Result, Rotation, execute, lab, random};

/// One call.
#[derive(Debug, Clone)]
pub struct Case {
    pub plan: AttentionBackwardPlan,
    pub shape: AttentionShape,
    pub kv_lens: Option<Vec<u32>>,
    pub prefix_lens: Option<Vec<u32>>,
    /// Needed where queries or gradients are turned: of queries, and of keys.
    pub rotations: Option<[Rotation; 2]>,
    /// Of q, k, v, out and d_out.
    pub place: Place,
    pub budget: Budget,
    pub size: f32,
    pub seed: u64,
}

/// What goes in, `[B, H, S, D]` without gaps: q, k, v, d_out and d_lse.
#[derive(Debug, Clone)]
pub struct Inputs(pub [Vec<f32>; 5]);

/// What comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    pub dq: Vec<f32>,
    pub dk: Vec<f32>,
    pub dv: Vec<f32>,
    pub d_sinks: Vec<f32>,
    pub d_bias: Vec<f32>,
}

/// The control: RoPE++ of two query heads over one kv head, causal.
pub fn control() -> AttentionBackwardProblem {
    of(AttentionProblem::new(HeadMap::ropepp(2).expect("two heads"), 1, 16))
}

pub fn of(attention: AttentionProblem) -> AttentionBackwardProblem {
    AttentionBackwardProblem::new(attention)
}

/// Tiles of 8 rows and 16: several a call, and quick to compile.
pub fn small_tile(head_dim: u32) -> BlockedTile {
    BlockedTile {
        tx: 4,
        ty: 4,
        row_pairs: 1,
        col_quads: 1,
        chunk_units: head_dim.div_ceil(8).min(2),
        y_quads: 2,
        few_registers: false,
    }
}

impl Case {
    /// With the plan that the device gets.
    pub fn new(problem: &AttentionBackwardProblem) -> phasor::Result<Self> {
        Ok(Self::planned(problem.plan(&lab().gpu.capabilities())?))
    }

    /// In [small tiles](small_tile).
    pub fn small(problem: &AttentionBackwardProblem) -> phasor::Result<Self> {
        Self::tiled(problem, small_tile(problem.attention.head_dim).into())
    }

    pub fn tiled(problem: &AttentionBackwardProblem, tile: Tile) -> phasor::Result<Self> {
        let caps = lab().gpu.capabilities();
        AttentionBackwardPlan::with_tiles(problem, &caps, [tile; 2]).map(Self::planned)
    }

    pub fn planned(plan: AttentionBackwardPlan) -> Self {
        Case {
            plan,
            shape: AttentionShape::new(2, 37, 43),
            kv_lens: None,
            prefix_lens: None,
            rotations: None,
            place: Place::Gaps,
            budget: Budget::UNLIMITED,
            size: 2.0,
            seed: 1,
        }
    }

    pub fn problem(&self) -> &AttentionBackwardProblem {
        self.plan.problem()
    }

    /// Of q, k, v, out and the log-sum-exp.
    pub fn shapes(&self) -> [[u32; 4]; 5] {
        let p = &self.problem().attention;
        let AttentionShape { batch, seq_q, seq_k, .. } = self.shape;
        let heads_out = p.heads.heads().len() as u32;
        [
            [batch, p.heads.q_heads(), seq_q, p.head_dim],
            [batch, p.kv_heads, seq_k, p.head_dim],
            [batch, p.kv_heads, seq_k, p.value_dim],
            [batch, heads_out, seq_q, p.value_dim],
            [batch, heads_out, seq_q, 1],
        ]
    }

    pub fn scores_shape(&self) -> [u32; 4] {
        let [_, _, _, [batch, heads_out, seq_q, _], _] = self.shapes();
        [batch, heads_out, seq_q, self.shape.seq_k]
    }

    pub fn inputs(&self) -> Inputs {
        let p = &self.problem().attention;
        let dtypes = [p.q_dtype, p.kv_dtype, p.kv_dtype, p.out_dtype, DType::F32];
        let shapes = self.shapes();
        let all = [0, 1, 2, 3, 4];
        Inputs(all.map(|n| random(shapes[n], self.size, dtypes[n], self.seed + 1000 * n as u64)))
    }

    /// Random inputs through the kernels, held to the oracle.
    pub fn check(&self) -> Result {
        let inputs = self.inputs();
        self.hold(&self.run(lab(), &inputs)?, &inputs)
    }

    pub fn hold(&self, got: &Gradients, inputs: &Inputs) -> Result {
        let (_, truth) = self.oracle::<f64>(inputs)?;
        let (_, naive) = self.oracle::<f32>(inputs)?;
        let [q, k, v, [_, heads_out, ..], _] = self.shapes();
        let sinks = [1, heads_out, 1, 1];
        // An O that was rounded when it was stored shifts δ by as much.
        let rounding = match self.problem().attention.out_dtype {
            DType::F32 => 0.0,
            DType::F16 => 4e-3 * f64::from(self.size),
        };
        let hold = |name, got: &[f32], truth: &[f64], naive: &[f32], shape| -> Result {
            let bound = match Bound::computed(naive, truth, DType::F32) {
                Bound::Uniform(bound) => {
                    let largest = truth.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                    // Sums over all rows of numbers that cancel: the naive run may be exact by
                    // luck.
                    Bound::Uniform(
                        bound + 2e-6 * f64::from(self.size) + rounding * largest.max(1.0),
                    )
                }
                other => other,
            };
            compare(name, got, truth, &bound, shape)?;
            Ok(())
        };
        hold("dq", &got.dq, &truth.dq, &naive.dq, q)?;
        hold("dk", &got.dk, &truth.dk, &naive.dk, k)?;
        hold("dv", &got.dv, &truth.dv, &naive.dv, v)?;
        if self.problem().d_sinks {
            hold("d_sinks", &got.d_sinks, &truth.d_sinks, &naive.d_sinks, sinks)?;
        }
        if self.problem().d_bias {
            let shape = self.scores_shape();
            hold("d_bias", &got.d_bias, &truth.d_scores, &naive.d_scores, shape)?;
        }
        Ok(())
    }

    /// Results of the forward pass, and gradients with respect to what the problem asks for.
    pub fn oracle<R: Real>(
        &self,
        Inputs([q, k, v, d_out, d_lse]): &Inputs,
    ) -> Result<(oracle::Attended<R>, AttentionGradients<R>)> {
        let (problem, p) = (self.problem(), &self.problem().attention);
        let narrow = |x: &[f32]| x.iter().map(|&x| R::from_f64(x.into())).collect::<Vec<R>>();
        let [q_shape, k_shape, v_shape, ..] = self.shapes();
        let (dim, pairing) = (p.rotary_dim, p.pairing);
        let turn = |n: usize, forth: bool, x: &[R], shape| -> Result<Vec<R>> {
            let rotation = &self.rotations.as_ref().ok_or("no rotation")?[n];
            let exact = rotation.exact(n == 1)?;
            let turn = move |b, s, pair| {
                let (cos, sin) = exact(b, s, pair);
                (R::from_f64(cos), R::from_f64(sin))
            };
            Ok(match forth {
                true => oracle::rope(x, shape, dim, pairing, turn)?,
                false => oracle::unrope(x, shape, dim, pairing, turn)?,
            })
        };
        let (mut q, k, v) = (narrow(q), narrow(k), narrow(v));
        if p.rotate_q {
            q = turn(0, true, &q, q_shape)?;
        }
        let inputs = AttentionInputs {
            q: &q,
            q_shape,
            k: &k,
            k_shape,
            v: &v,
            v_shape,
            rotary_dim: dim,
            pairing,
            heads: p.heads.heads(),
            softmax_scale: f64::from(p.softmax_scale),
            causal: p.causal && !p.prefix,
            q_offset: self.shape.query_offset.map(i64::from),
            kv_lens: self.kv_lens.as_deref(),
        };
        let sinks: Vec<f64> = p.sinks.iter().map(|&sink| sink.into()).collect();
        let sinks = (!sinks.is_empty()).then_some(sinks.as_slice());
        let bias = p.bias.map(|kind| self.bias(kind));
        let modify = |place: At, score: R| self.modified(bias.as_ref(), place, score);
        let forward = |place: At, score: R| Some(modify(place, score)?.0);
        let attended = oracle::attention_with(&inputs, &forward, sinks)?;
        let (d_out, d_lse) = (narrow(d_out), narrow(d_lse));
        let d_lse = problem.d_lse.then_some(d_lse.as_slice());
        let upstream = Upstream { d_out: &d_out, d_lse };
        let mut all = oracle::attention_backward(&inputs, &upstream, &modify, sinks)?;
        if problem.unrotate {
            all.dq = turn(0, false, &all.dq, q_shape)?;
            all.dk = turn(1, false, &all.dk, k_shape)?;
        }
        Ok((attended, all))
    }

    pub fn bias(&self, kind: Bias) -> Scores {
        let [batch, heads, rows, _] = self.scores_shape();
        Scores::new(kind, self.scores_shape(), [batch, heads, rows], self.seed + 9000)
    }

    /// A score after all that the problem adds, and its derivative.
    fn modified<R: Real>(&self, bias: Option<&Scores>, place: At, score: R) -> Option<(R, R)> {
        let p = &self.problem().attention;
        let (one, two) = (R::from_f64(1.0), R::from_f64(2.0));
        let (mut score, slope) = match p.softcap.map(|cap| R::from_f64(cap.into())) {
            Some(cap) => {
                let x = score / cap;
                let e = (-(two * x.max(-x))).exp();
                let capped = cap - cap * two / ((two * x).exp() + one);
                (capped, R::from_f64(4.0) * e / ((one + e) * (one + e)))
            }
            None => (score, one),
        };
        if let Some(&slope) = p.alibi_slopes.get(place.head) {
            let distance = -(place.key as i64 - place.position).abs();
            score += R::from_f64(slope.into()) * R::from_f64(distance as f64);
        }
        if let Some(bias) = bias {
            score += R::from_f64(bias.at(place)?.into());
        }
        let key = place.key as i64;
        let query = if p.causal { place.position } else { place.query as i64 };
        if p.mask_mod.is_some() && !in_stripes(place.batch, query, key) {
            return None;
        }
        let prefix = self.prefix_lens.as_ref().map_or(0, |lens| i64::from(lens[place.batch]));
        let in_window = p.window.map(i64::from).is_none_or(|w| {
            let behind = key > place.position - w || place.position < prefix;
            behind && (p.causal || key < place.position + w)
        });
        let causal = !p.prefix || key <= place.position || key < prefix;
        (in_window && causal).then_some((score, slope))
    }

    /// The kernels on guarded tensors; NaN in the keys and values behind `kv_lens`.
    pub fn run(&self, lab: &Lab, inputs: &Inputs) -> Result<Gradients> {
        let gpu = &lab.gpu;
        let (problem, p) = (self.problem(), &self.problem().attention);
        let (attended, _) = self.oracle::<f64>(inputs)?;
        let Inputs([q, k, v, d_out, d_lse]) = inputs;
        let shapes = self.shapes();
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let out = stored(&narrow(&attended.out), p.out_dtype);
        let mut kv = [k.clone(), v.clone()];
        for (b, &len) in self.kv_lens.iter().flatten().enumerate() {
            for (x, [_, heads, rows, channels]) in kv.iter_mut().zip([shapes[1], shapes[2]]) {
                let plane = (rows * channels) as usize;
                let batch = &mut x[b * heads as usize * plane..][..heads as usize * plane];
                for head in batch.chunks_exact_mut(plane.max(1)) {
                    head[(len.min(rows) * channels) as usize..].fill(f32::NAN);
                }
            }
        }
        let input = |n: usize, dtype, x: &[f32]| -> Result<Placed> {
            Ok(Placed::input(gpu, dtype, self.place.layout(shapes[n])?, x))
        };
        let tensors = [
            input(0, p.q_dtype, q)?,
            input(1, p.kv_dtype, &kv[0])?,
            input(2, p.kv_dtype, &kv[1])?,
            input(3, p.out_dtype, &out)?,
            input(3, p.out_dtype, d_out)?,
        ];
        let dense = |shape| Layout::bhsd(shape);
        let lse = Placed::input(gpu, DType::F32, dense(shapes[4])?, &narrow(&attended.lse));
        let d_lse = Placed::input(gpu, DType::F32, dense(shapes[4])?, d_lse);
        // Gradients lie at odd places.
        let output = |shape| -> Result<Placed> {
            Ok(Placed::output(gpu, DType::F32, Place::Odd(3).layout(shape)?))
        };
        let outputs = [output(shapes[0])?, output(shapes[1])?, output(shapes[2])?];
        let heads_out = shapes[3][1];
        let d_sinks = Placed::output(gpu, DType::F32, dense([1, 1, 1, heads_out])?);
        let d_bias = Placed::output(gpu, DType::F32, dense(self.scores_shape())?);
        let AttentionShape { batch, seq_q, seq_k, .. } = self.shape;
        let words = self.plan.workspace_bytes(&self.shape, batch * seq_q) as u32 / 4;
        let workspace = Placed::output(gpu, DType::F32, dense([1, 1, 1, words])?);
        let lens = |x: &Option<Vec<u32>>| x.as_ref().map(|x| gpu.upload_u32(x));
        let (kv_lens, prefix_lens) = (lens(&self.kv_lens), lens(&self.prefix_lens));
        let bias = p.bias.map(|kind| self.bias(kind));
        let bias_buffer = bias.as_ref().map(|bias| gpu.upload_bytes(&bias.bytes()));
        let rotations = match &self.rotations {
            Some([q, k]) => Some((q.upload(gpu, batch, seq_q)?, k.upload(gpu, batch, seq_k)?)),
            None => None,
        };

        let of = |n: usize| tensors[n].tensor();
        let gradients = [0, 1, 2].map(|n| outputs[n].tensor());
        let mut bindings = AttentionBackwardBindings::new(
            [of(0), of(1), of(2)],
            (of(3), lse.binding()),
            of(4),
            gradients,
            workspace.binding(),
        );
        bindings.d_lse = problem.d_lse.then(|| d_lse.binding());
        bindings.d_sinks = problem.d_sinks.then(|| d_sinks.binding());
        bindings.d_bias = problem.d_bias.then(|| d_bias.binding());
        let bound = wgpu::Buffer::as_entire_buffer_binding;
        bindings.kv_lens = kv_lens.as_ref().map(bound);
        bindings.prefix_lens = prefix_lens.as_ref().map(bound);
        bindings.bias =
            bias.iter().zip(&bias_buffer).map(|(bias, x)| (bias.layout, bound(x))).next();
        bindings.rotation = rotations.as_ref().map(|(q, k)| BackwardRotation {
            table: q.table(),
            q_positions: q.positions(),
            k_positions: k.positions(),
        });
        let kernel = lab.attention_backward(&self.plan)?;
        let call = kernel.bind_within(&gpu.device, &self.shape, &bindings, self.budget)?;
        execute(gpu, &call);
        workspace.read(gpu)?;
        let read = |asked: bool, x: &Placed| if asked { x.read(gpu) } else { Ok(Vec::new()) };
        Ok(Gradients {
            dq: outputs[0].read(gpu)?,
            dk: outputs[1].read(gpu)?,
            dv: outputs[2].read(gpu)?,
            d_sinks: read(problem.d_sinks, &d_sinks)?,
            d_bias: read(problem.d_bias, &d_bias)?,
        })
    }
}
