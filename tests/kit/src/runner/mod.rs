//! Implementations that can run cases, and the oracle as one of them.

mod backward;
mod backward_device;
mod cache;
mod device;
mod linear;
mod model;
mod prefill;
mod remote;
mod serving;

pub use device::Device;
pub use model::{Attend, ModelAttention};
pub use remote::Remote;

use std::marker::PhantomData;

use phasor::oracle::{self, Attended, AttentionInputs, Real};
use phasor::rotary::RopeConfig;

use crate::cases::{
    AttentionCase, BackwardCase, CacheCase, LinearBackwardCase, LinearCase, MergeCase, Order,
    Result, RopeBackwardCase, RopeCase, Rotation, ScoresCase, swap_axes,
};
pub use backward::Gradients;

/// What several ways to compute one thing give, by their names.
pub type Ways<T> = Vec<(&'static str, T)>;

/// Something that computes cases. Results are dense `[B, H, S, D]`, widened to f64.
pub trait Runner {
    /// A short name for reports.
    fn name(&self) -> &'static str;

    /// The rotated vectors, `case.shape` whatever the order in memory.
    fn rope(&self, case: &RopeCase) -> Result<Vec<f64>>;

    /// The real and the imaginary scores, `[B, Hq, Sq, Sk]`.
    fn scores(&self, case: &ScoresCase) -> Result<(Vec<f64>, Vec<f64>)>;

    /// Output and log-sum-exp of all output heads, in every way that suits the case.
    fn attention(&self, case: &AttentionCase) -> Result<Ways<Attended<f64>>>;

    /// K and V as caches hold them, `[B, Hkv, S, D]` each.
    fn cache(&self, case: &CacheCase) -> Result<Ways<[Vec<f64>; 2]>>;

    /// The attention of a model, with empty caches.
    fn model(&self, model: &ModelAttention) -> Result<Ways<Box<dyn Attend + '_>>>;

    /// Attention over all keys, from attention over parts of them.
    fn merge(&self, case: &MergeCase) -> Result<Attended<f64>>;

    /// Linear attention: outputs, and the state after the last key.
    fn linear(&self, case: &LinearCase) -> Result<Linear>;

    /// Why it does not compute a case, if it does not.
    fn refusal(&self, _case: &AttentionCase) -> Option<phasor::Error> {
        None
    }

    /// By how much the first of those ways may miss a case's references beside their own bounds,
    /// where its precision is not that of f32: what the oracle gives that rounds where the kernel
    /// rounds, and the truth.
    fn rounded(&self, _case: &AttentionCase) -> Result<Option<[Attended<f64>; 2]>> {
        Ok(None)
    }

    /// Output and log-sum-exp in the way that a forward pass takes which is differentiated.
    fn forward(&self, case: &AttentionCase) -> Result<Attended<f64>> {
        let first = self.attention(case)?.into_iter().next();
        Ok(first.ok_or("no way to compute attention")?.1)
    }

    /// The gradients of an attention call, and its results.
    fn backward(&self, case: &BackwardCase) -> Result<Ways<Gradients>>;

    /// The gradient of a rotation, for `d_y` of the rotated vectors.
    fn rope_backward(&self, case: &RopeBackwardCase) -> Result<Vec<f64>>;

    /// Gradients of linear attention with respect to q, k and v.
    fn linear_backward(&self, case: &LinearBackwardCase) -> Result<[Vec<f64>; 3]>;
}

/// What linear attention gives.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[B, Hq, Sq, Dv]`.
    pub out: Vec<f64>,
    /// S `[B, Hkv, F, Dv]` and z `[B, Hkv, F]`.
    pub state: [Vec<f64>; 2],
}

/// The oracle: the truth as `Oracle<f64>`, the naive run that bounds are computed from as
/// `Oracle<f32>`.
#[derive(Debug, Clone, Copy)]
pub struct Oracle<R>(PhantomData<R>);

impl<R> Oracle<R> {
    pub const fn new() -> Self {
        Oracle(PhantomData)
    }
}

impl<R> Default for Oracle<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Real> Runner for Oracle<R> {
    fn name(&self) -> &'static str {
        match size_of::<R>() {
            4 => "oracle-f32",
            _ => "oracle",
        }
    }

    fn cache(&self, case: &CacheCase) -> Result<Ways<[Vec<f64>; 2]>> {
        let k = rotate(&narrow::<R>(&case.k), case.k_shape, &case.rotation)?;
        Ok(vec![(self.name(), [widen(&k), widen(&narrow::<R>(&case.v))])])
    }

    fn model(&self, model: &ModelAttention) -> Result<Ways<Box<dyn Attend + '_>>> {
        Ok(vec![(self.name(), Box::new(model::Naive::<R>::new(model)))])
    }

    fn merge(&self, case: &MergeCase) -> Result<Attended<f64>> {
        let part = |(out, lse): &(Vec<f32>, Vec<f32>)| Attended {
            out: narrow::<R>(out),
            lse: narrow::<R>(lse),
        };
        let parts: Vec<_> = case.parts.iter().map(part).collect();
        let whole = oracle::merge_states(&parts, None)?;
        Ok(Attended { out: widen(&whole.out), lse: widen(&whole.lse) })
    }

    fn rope(&self, case: &RopeCase) -> Result<Vec<f64>> {
        let [b, h, s, d] = case.shape;
        let x: Vec<R> = match case.order {
            Order::Bhsd => narrow(&case.x),
            Order::Bshd => narrow(&swap_axes(&case.x, [b, s, h, d])),
        };
        Ok(widen(&rotate(&x, case.shape, &case.rotation)?))
    }

    fn scores(&self, case: &ScoresCase) -> Result<(Vec<f64>, Vec<f64>)> {
        let q = rotate(&narrow::<R>(&case.q), case.q_shape, &case.q_rotation)?;
        let k = rotate(&narrow::<R>(&case.k), case.k_shape, &case.k_rotation)?;
        let config = &case.q_rotation.config;
        let (re, im) = oracle::scores(&AttentionInputs {
            q: &q,
            q_shape: case.q_shape,
            k: &k,
            k_shape: case.k_shape,
            // Scores need no values; the keys stand in for them.
            v: &k,
            v_shape: case.k_shape,
            rotary_dim: config.rotary_dim,
            pairing: config.pairing,
            heads: &[],
            softmax_scale: 1.0,
            causal: false,
            q_offset: None,
            kv_lens: None,
        })?;
        Ok((widen(&re), widen(&im)))
    }

    fn attention(&self, case: &AttentionCase) -> Result<Ways<Attended<f64>>> {
        let got = backward::attend::<R>(case)?;
        Ok(vec![(self.name(), Attended { out: widen(&got.out), lse: widen(&got.lse) })])
    }

    fn backward(&self, case: &BackwardCase) -> Result<Ways<Gradients>> {
        Ok(vec![(self.name(), backward::by_oracle::<R>(case)?)])
    }

    fn rope_backward(&self, case: &RopeBackwardCase) -> Result<Vec<f64>> {
        Ok(widen(&unrotate(&narrow::<R>(&case.d_y), case.shape, &case.rotation)?))
    }

    fn linear_backward(&self, case: &LinearBackwardCase) -> Result<[Vec<f64>; 3]> {
        linear::gradients_by_oracle::<R>(case)
    }

    fn linear(&self, case: &LinearCase) -> Result<Linear> {
        linear::by_oracle::<R>(case)
    }
}

/// Rotates by cosines and sines rounded once to the precision, as a table would hold them.
fn rotate<R: Real>(x: &[R], shape: [u32; 4], rotation: &Rotation) -> Result<Vec<R>> {
    let RopeConfig { rotary_dim, pairing, .. } = rotation.config;
    Ok(oracle::rope(x, shape, rotary_dim, pairing, table(shape, rotation)?)?)
}

/// The transpose of [`rotate`].
fn unrotate<R: Real>(x: &[R], shape: [u32; 4], rotation: &Rotation) -> Result<Vec<R>> {
    let RopeConfig { rotary_dim, pairing, .. } = rotation.config;
    Ok(oracle::unrope(x, shape, rotary_dim, pairing, table(shape, rotation)?)?)
}

fn table<R: Real>(
    shape: [u32; 4],
    rotation: &Rotation,
) -> Result<impl Fn(u32, u32, u32) -> (R, R) + '_> {
    rotation.check(shape[2])?;
    let frequencies = rotation.frequencies()?;
    Ok(move |_, place, pair| {
        let pair = pair as usize;
        let stream = frequencies.axes().map_or(0, |axes| axes[pair]);
        let position = rotation.positions[usize::from(stream)][place as usize];
        let (cos, sin) = frequencies.cos_sin(position, pair);
        let scale = match frequencies.query_scale(position, pair) {
            scale if rotation.keys => 1.0 / scale,
            scale => scale,
        };
        (R::from_f64(cos * scale), R::from_f64(sin * scale))
    })
}

fn narrow<R: Real>(x: &[f32]) -> Vec<R> {
    x.iter().map(|&x| R::from_f64(f64::from(x))).collect()
}

fn widen<R: Real>(x: &[R]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}
