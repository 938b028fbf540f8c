//! The maps by the formula, in double precision.

use phasor::oracle::{self, AttentionInputs, Real};
use phasor::rotary::Pairing;
use phasor::{OutputHead, Phase};

use crate::Result;
use crate::layer::Layer;

/// How far a drawing is from the truth, and how far it may be.
pub struct Judged {
    pub error: f64,
    pub bound: f64,
}

/// Ulps of the largest weight that are granted whatever the naive run shows, as in the crate's own
/// tests.
pub const FLOOR_ULPS: f64 = 4.0;

/// Holds the planes of φ and φ + π/2, `[2, S, S]`, of a head to the formula in f64. They may be off
/// by twice what the page's own way is, `exp(score − lse)` of a turned query, with scores that are
/// naive in f32, and a few ulp. `turns` has cos and sin of each position and pair.
pub fn judge(
    layer: &Layer,
    head: u32,
    phi: f64,
    turns: &[(f64, f64)],
    drawn: &[f32],
) -> Result<Judged> {
    let heads = [phi, phi + core::f64::consts::FRAC_PI_2].map(phase);
    let [q, k] = rotated::<f64>(layer, head, turns, turns)?;
    let exact = inputs(layer, [&q, &k], &heads);
    let truth = oracle::probabilities(&exact)?;
    let naive = naive(layer, head, phi, turns, &oracle::attention(&exact)?.lse)?;
    if drawn.len() != truth.len() {
        return Err(format!("{} numbers drawn, {} due", drawn.len(), truth.len()).into());
    }
    let largest = |of: &[f32]| {
        // What is not a number is as wrong as can be.
        let off = of.iter().zip(&truth).map(|(&x, t)| (f64::from(x) - t).abs());
        off.fold(0.0, |most, x| if x.is_nan() { f64::INFINITY } else { x.max(most) })
    };
    let size = truth.iter().fold(0.0, |most, &p| p.max(most));
    let bound = 2.0 * largest(&naive) + FLOOR_ULPS * f64::from(f32::EPSILON) * size;
    Ok(Judged { error: largest(drawn), bound })
}

/// The planes as the page has them, from naive scores. The log-sum-exps are the right ones: the
/// page has its own from another kernel than the scores, whose errors they do not share.
fn naive(
    layer: &Layer,
    head: u32,
    phi: f64,
    turns: &[(f64, f64)],
    lse: &[f64],
) -> Result<Vec<f32>> {
    let queries: Vec<_> = turns.iter().map(|&turn| turned(turn, phi)).collect();
    let [q, k] = rotated::<f32>(layer, head, &queries, turns)?;
    let both = [Phase::REAL, Phase::IMAGINARY].map(|phase| OutputHead { source: 0, phase });
    let inputs = inputs(layer, [&q, &k], &both);
    let (re, im) = oracle::scores(&inputs)?;
    let (seq, scale) = (layer.seq as usize, inputs.softmax_scale as f32);
    let weight = |(n, &score): (usize, &f32)| {
        let (row, key) = (n / seq, n % seq);
        if key <= row % seq { (score * scale - lse[row] as f32).exp() } else { 0.0 }
    };
    Ok(re.iter().chain(&im).enumerate().map(weight).collect())
}

/// cos and sin of an angle, from which φ is taken.
pub fn turned((cos, sin): (f64, f64), phi: f64) -> (f64, f64) {
    let (s, c) = phi.sin_cos();
    (cos * c + sin * s, sin * c - cos * s)
}

/// Queries and keys of a head, rotated by their tables.
fn rotated<R: Real>(
    layer: &Layer,
    head: u32,
    queries: &[(f64, f64)],
    keys: &[(f64, f64)],
) -> Result<[Vec<R>; 2]> {
    let shape = [1, 1, layer.seq, layer.head_dim];
    let pairs = layer.head_dim / 2;
    let rotate = |x: &[f32], table: &[(f64, f64)]| {
        let wide: Vec<R> = x.iter().map(|&x| R::from_f64(f64::from(x))).collect();
        oracle::rope(&wide, shape, layer.head_dim, Pairing::Half, |_, s, pair| {
            let (cos, sin) = table[(s * pairs + pair) as usize];
            (R::from_f64(cos), R::from_f64(sin))
        })
    };
    let [q, k] = layer.head(head);
    Ok([rotate(q, queries)?, rotate(k, keys)?])
}

/// Causal attention of one head. Only weights and sums are asked for: values may be anything.
fn inputs<'a, R: Real>(
    layer: &Layer,
    [q, k]: [&'a [R]; 2],
    heads: &'a [OutputHead],
) -> AttentionInputs<'a, R> {
    let shape = [1, 1, layer.seq, layer.head_dim];
    AttentionInputs {
        q,
        q_shape: shape,
        k,
        k_shape: shape,
        v: k,
        v_shape: shape,
        rotary_dim: layer.head_dim,
        pairing: Pairing::Half,
        heads,
        softmax_scale: f64::from(layer.head_dim).powf(-0.5),
        causal: true,
        q_offset: None,
        kv_lens: None,
    }
}

/// An output head of the one query head there is.
fn phase(phi: f64) -> OutputHead {
    OutputHead { source: 0, phase: Phase::radians(phi) }
}
