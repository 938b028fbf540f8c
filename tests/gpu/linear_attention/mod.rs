//! Linear attention on the device against the oracle: what a case is, and how it runs.

mod state;
mod table;

use phasor::HeadMap;
use phasor::linear_attention::{
    self, Directions, FeatureMap, LinearAttentionBindings, LinearAttentionProblem,
    LinearAttentionShape, RandomFeatureBindings, RandomFeatures,
};
use phasor::oracle::{self, LinearInputs, Real, Side};
use phasor::rotary::RopeConfig;
use phasor_kit::tolerance::{Bound, compare, stored};

use crate::harness::{Ids, Lab, Place, Placed, Result, Rotation, lab, random};

/// The hook of the cases with a feature map of their own, and what it computes.
pub const SOFTPLUS: &str =
    "fn feature_map(x: f32) -> f32 { return max(x, 0.0) + log(1.0 + exp(-abs(x))); }";

fn softplus<R: Real>(x: R) -> R {
    let one = R::from_f64(1.0);
    let size = if x > R::ZERO { x } else { -x };
    let above = if x > R::ZERO { x } else { R::ZERO };
    above + (one + (-size).exp()).ln()
}

/// One call.
#[derive(Debug, Clone)]
pub struct Case {
    pub problem: LinearAttentionProblem,
    pub rotation: Option<Rotation>,
    pub shape: LinearAttentionShape,
    /// Of q, k, v and out.
    pub places: [Place; 4],
    pub directions: Directions,
}

/// q, k and v, `[B, H, S, D]` without gaps.
pub type Inputs = [Vec<f32>; 3];

/// S and z.
pub type State = [Vec<f32>; 2];

/// What the oracle reads.
pub struct Features<R> {
    q: Vec<R>,
    q_rotated: Vec<R>,
    q_shape: [u32; 4],
    k: Vec<R>,
    k_rotated: Vec<R>,
    k_shape: [u32; 4],
    v: Vec<R>,
}

impl<R> Features<R> {
    pub fn inputs<'a>(&'a self, case: &'a Case) -> LinearInputs<'a, R> {
        let p = &case.problem;
        LinearInputs {
            q: &self.q,
            q_rotated: &self.q_rotated,
            q_shape: self.q_shape,
            k: &self.k,
            k_rotated: &self.k_rotated,
            k_shape: self.k_shape,
            v: &self.v,
            v_shape: case.shapes()[2],
            rotary_dim: p.rotary_dim,
            pairing: p.pairing,
            heads: p.heads.heads(),
            causal: p.causal,
        }
    }
}

impl Case {
    /// A sequence of 70 tokens that rotates by the problem's pairs.
    pub fn new(problem: LinearAttentionProblem) -> Self {
        let rotation = (problem.rotary_dim > 0).then(|| {
            let config = RopeConfig {
                rotary_dim: problem.rotary_dim,
                pairing: problem.pairing,
                ..RopeConfig::new(problem.feature_dim(), 10_000.0)
            };
            Rotation::new(config, Ids::PerBatch)
        });
        Case {
            problem,
            rotation,
            shape: LinearAttentionShape::new(2, 70),
            places: [Place::Gaps, Place::BshdGaps, Place::Gaps, Place::BshdGaps],
            directions: Directions::Orthogonal,
        }
    }

    pub fn plain(q_heads: u32, kv_heads: u32, head_dim: u32) -> Result<LinearAttentionProblem> {
        Ok(LinearAttentionProblem::new(HeadMap::plain(q_heads)?, kv_heads, head_dim))
    }

    /// Shapes of q, k, v and out.
    pub fn shapes(&self) -> [[u32; 4]; 4] {
        let (p, s) = (&self.problem, &self.shape);
        [
            [s.batch, p.heads.q_heads(), s.seq_q, p.head_dim],
            [s.batch, p.kv_heads, s.seq_k, p.head_dim],
            [s.batch, p.kv_heads, s.seq_k, p.value_dim],
            [s.batch, p.heads.heads().len() as u32, s.seq_q, p.value_dim],
        ]
    }

    pub fn random(&self) -> Inputs {
        let [q, k, v, _] = self.shapes();
        let p = &self.problem;
        [random(q, 2.0, p.q_dtype, 1), random(k, 2.0, p.kv_dtype, 2), random(v, 1.0, p.kv_dtype, 3)]
    }

    fn random_features(&self) -> Result<RandomFeatures> {
        let p = &self.problem;
        Ok(RandomFeatures::new(p.head_dim, p.feature_dim(), 5, self.directions)?)
    }

    /// Random inputs through the kernel, held to the sums that define the result.
    pub fn check(&self) -> Result {
        self.check_on(lab())
    }

    pub fn check_on(&self, lab: &Lab) -> Result {
        let inputs = self.random();
        let (got, _) = self.run(lab, &inputs, None)?;
        self.hold(&inputs, &got)
    }

    /// Outputs of the whole sequence within the bound of the naive run.
    pub fn hold(&self, inputs: &Inputs, got: &[f32]) -> Result {
        let truth = oracle::linear_attention(&self.exact(inputs)?.inputs(self))?;
        let naive = oracle::linear_attention(&self.naive(inputs)?.inputs(self))?;
        let dtype = self.problem.out_dtype;
        let bound = Bound::computed(&stored(&naive, dtype), &truth, dtype);
        compare("out", got, &truth, &bound, self.shapes()[3])?;
        Ok(())
    }

    /// Features in double precision, rotated by exact angles.
    pub fn exact(&self, inputs: &Inputs) -> Result<Features<f64>> {
        let Some(rotation) = &self.rotation else {
            return self.features(inputs, None::<fn(bool, u32, u32, u32) -> (f64, f64)>);
        };
        let (q, k) = (rotation.exact(false)?, rotation.exact(true)?);
        self.features(inputs, Some(|key: bool, b, s, j| if key { k(b, s, j) } else { q(b, s, j) }))
    }

    /// Features in single precision, rotated by the table.
    pub fn naive(&self, inputs: &Inputs) -> Result<Features<f32>> {
        let Some(rotation) = &self.rotation else {
            return self.features(inputs, None::<fn(bool, u32, u32, u32) -> (f32, f32)>);
        };
        let (q, k) = (rotation.rounded(false)?, rotation.rounded(true)?);
        self.features(inputs, Some(|key: bool, b, s, j| if key { k(b, s, j) } else { q(b, s, j) }))
    }

    fn features<R: Real>(
        &self,
        inputs: &Inputs,
        cos_sin: Option<impl Fn(bool, u32, u32, u32) -> (R, R)>,
    ) -> Result<Features<R>> {
        let p = &self.problem;
        let [mut q_shape, mut k_shape, ..] = self.shapes();
        let [q, k, v] = inputs
            .each_ref()
            .map(|x| x.iter().map(|&x| R::from_f64(f64::from(x))).collect::<Vec<R>>());
        let [q, k] = match &p.feature_map {
            FeatureMap::EluPlusOne => [oracle::elu_plus_one(&q), oracle::elu_plus_one(&k)],
            FeatureMap::Custom(_) => [q, k].map(|x| x.into_iter().map(softplus).collect()),
            FeatureMap::Favor { key_offset, .. } => {
                let random = self.random_features()?;
                let offset = f64::from(*key_offset);
                [
                    oracle::favor(&q, &random, Side::Query)?,
                    oracle::favor(&k, &random, Side::Key { offset })?,
                ]
            }
        };
        (q_shape[3], k_shape[3]) = (p.feature_dim(), p.feature_dim());
        let rotate = |x: &[R], shape, key| match &cos_sin {
            None => Ok(x.to_vec()),
            Some(f) => oracle::rope(x, shape, p.rotary_dim, p.pairing, |b, s, j| f(key, b, s, j)),
        };
        let (q_rotated, k_rotated) = (rotate(&q, q_shape, false)?, rotate(&k, k_shape, true)?);
        Ok(Features { q, q_rotated, q_shape, k, k_rotated, k_shape, v })
    }

    /// The kernel on guarded tensors: outputs, and where the problem has one, the state after it.
    pub fn run(
        &self,
        lab: &Lab,
        inputs: &Inputs,
        state: Option<&State>,
    ) -> Result<(Vec<f32>, State)> {
        let p = &self.problem;
        let gpu = &lab.gpu;
        let kernel = lab.linear_attention(p)?;
        let plan = kernel.plan();
        let shapes = self.shapes();
        let mut layouts = Vec::new();
        for (place, shape) in self.places.iter().zip(shapes) {
            layouts.push(place.layout(shape)?);
        }
        let q = Placed::input(gpu, p.q_dtype, layouts[0], &inputs[0]);
        let k = Placed::input(gpu, p.kv_dtype, layouts[1], &inputs[1]);
        let v = Placed::input(gpu, p.kv_dtype, layouts[2], &inputs[2]);
        let out = Placed::output(gpu, p.out_dtype, layouts[3]);
        let scratch = |bytes: u64| gpu.output(bytes as usize / 4, phasor::DType::F32);
        let workspace = scratch(plan.workspace_bytes(&self.shape));
        let features = scratch(plan.features_bytes(&self.shape));
        let projection = match p.feature_map {
            FeatureMap::Favor { .. } => Some(gpu.upload_bytes(self.random_features()?.as_bytes())),
            _ => None,
        };
        let [f, dv] = [p.feature_dim(), p.value_dim];
        let planes = (self.shape.batch * p.kv_heads) as usize;
        let mut state_shape = self.shape;
        state_shape.resume = state.is_some();
        // Where the call does not resume, what the state holds must not matter.
        let lens = [planes * (f * dv) as usize, planes * f as usize];
        let nothing = lens.map(|len| vec![f32::NAN; len]);
        let buffers =
            state.unwrap_or(&nothing).each_ref().map(|x| gpu.upload(x, phasor::DType::F32));
        let uploaded = match &self.rotation {
            Some(rotation) => Some(rotation.upload(
                gpu,
                self.shape.batch,
                self.shape.seq_q.max(self.shape.seq_k),
            )?),
            None => None,
        };
        let bindings = LinearAttentionBindings {
            q: q.tensor(),
            k: k.tensor(),
            v: v.tensor(),
            out: out.tensor(),
            workspace: workspace.as_entire_buffer_binding(),
            rotation: uploaded.as_ref().map(|uploaded| uploaded.rotation()),
            q_positions: None,
            state: p.state.then(|| linear_attention::State {
                s: buffers[0].as_entire_buffer_binding(),
                z: buffers[1].as_entire_buffer_binding(),
            }),
            random: projection.as_ref().map(|projection| RandomFeatureBindings {
                projection: projection.as_entire_buffer_binding(),
                features: features.as_entire_buffer_binding(),
            }),
        };
        let dispatch = kernel.bind(&gpu.device, &state_shape, &bindings)?;
        gpu.run(|encoder| dispatch.encode(encoder));
        let after = [0, 1].map(|n| {
            let mut x = gpu.download(&buffers[n], phasor::DType::F32);
            x.truncate(lens[n]);
            x
        });
        Ok((out.read(gpu)?, after))
    }
}
