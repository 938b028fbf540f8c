//! The same formulas in Burn's own operations, on any of its devices: what the kernels are held to,
//! and what runs where there is no wgpu. Attention takes memory for S_q × S_k scores a head here,
//! and gradients come from Burn.

use burn::tensor::{Bool, Int, Tensor, TensorData};
use phasor::Phase;
use phasor::rotary::Pairing;

use crate::rotary::Side;
use crate::{AttentionOptions, Positions, Result, Rotary};

/// As [`ropepp_attention`](crate::ropepp_attention).
///
/// # Errors
/// [`Error::Phasor`](crate::Error::Phasor) for a head map that does not fit. Shapes that do not fit
/// each other panic, as in any operation of Burn's.
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Result<Tensor<4>> {
    Ok(attended(q, k, v, options)?.0)
}

/// As [`ropepp_attention_lse`](crate::ropepp_attention_lse).
///
/// # Errors
/// As [`attention`].
pub fn attention_lse(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Result<(Tensor<4>, Tensor<3>)> {
    let (out, most, total) = attended(q, k, v, options)?;
    let [b, h, s, _] = out.dims();
    Ok((out, (most + total.log()).reshape([b, h, s])))
}

/// As [`Rotary::query`].
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for positions of another shape.
pub fn query(rotary: &Rotary, x: Tensor<4>, positions: &Positions) -> Result<Tensor<4>> {
    rotate(rotary, x, positions, Side::Query)
}

/// As [`Rotary::key`].
///
/// # Errors
/// As [`query`].
pub fn key(rotary: &Rotary, x: Tensor<4>, positions: &Positions) -> Result<Tensor<4>> {
    rotate(rotary, x, positions, Side::Key)
}

/// What hidden scores are given beside their own.
const HIDDEN: f64 = -1e30;

/// Output, largest score of each row, and what the exponentials of the others add up to beside it.
fn attended(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Result<(Tensor<4>, Tensor<4>, Tensor<4>)> {
    let ([b, q_heads, s_q, d], [_, kv_heads, s_k, d_v]) = (q.dims(), v.dims());
    let outputs = options.outputs(q_heads)?;
    let (h, group, device) = (outputs.len(), q_heads / kv_heads, q.device());
    let kv_head: Vec<usize> = outputs.iter().map(|(source, _)| source / group).collect();
    // Output heads of a kv head behind each other are rows of one product: nothing is repeated.
    let per_kv = (h / kv_heads).max(1);
    let whole = h % kv_heads == 0 && kv_head.iter().enumerate().all(|(o, &kv)| kv == o / per_kv);
    let (k, v, heads) = match whole {
        true => (k, v, kv_heads),
        false => {
            let index = indices(&kv_head, &k);
            (k.select(1, index.clone()), v.select(1, index), h)
        }
    };
    let rows = h / heads * s_q;
    let scale = options.softmax_scale.map_or((d as f64).powf(-0.5), f64::from);
    // Scaled are the queries: there are fewer of them than scores.
    let scores = turned(q.mul_scalar(scale), &outputs, options)
        .reshape([b, heads, rows, d])
        .matmul(k.swap_dims(2, 3))
        .reshape([b, h, s_q, s_k]);
    let scores = match options.softcap {
        Some(cap) => (scores / cap).tanh() * cap,
        None => scores,
    };
    let distance = || {
        let axis = |n: usize| Tensor::<1, Int>::arange(0..n as i64, &device);
        let keys = axis(s_k).reshape([1, s_k]);
        keys - axis(s_q).reshape([s_q, 1]) - (s_k as i64 - s_q as i64)
    };
    let scores = match options.alibi_slopes.is_empty() {
        true => scores,
        false => {
            let slopes = per_head(&options.alibi_slopes, &scores);
            scores - slopes * distance().abs().float().reshape([1, 1, s_q, s_k])
        }
    };
    let hidden: Option<Tensor<2, Bool>> = match (options.causal, options.window) {
        (false, None) => None,
        (true, None) => Some(Tensor::tril_mask([s_q, s_k], s_k as i64 - s_q as i64, &device)),
        (causal, Some(window)) => {
            let far = distance().abs().greater_equal_elem(i64::from(window));
            Some(if causal { far.bool_or(distance().greater_elem(0)) } else { far })
        }
    };
    // Added, since a sum has nothing to do on its way back; any score is lost beside it.
    let scores = match &hidden {
        Some(hidden) => {
            let far = hidden.clone().float().mul_scalar(HIDDEN).cast(scores.dtype());
            scores + far.reshape([1, 1, s_q, s_k])
        }
        None => scores,
    };
    let sinks = match options.sinks.is_empty() {
        true => None,
        false => Some(per_head(&options.sinks, &scores)),
    };
    // Subtracting it changes nothing but the range of numbers.
    let most = scores.clone().detach().max_dim(3);
    let most = match &sinks {
        Some(sinks) => most.max_pair(sinks.clone().expand([b, h, s_q, 1])),
        None => most,
    };
    let weights = (scores - most.clone()).exp();
    // Hidden ones are 0 already, but where a row has no others.
    let keyless = s_k < s_q || options.window == Some(0);
    let weights = match hidden {
        Some(hidden) if keyless => {
            weights.mask_fill(hidden.reshape([1, 1, s_q, s_k]).expand([b, h, s_q, s_k]), 0.0)
        }
        _ => weights,
    };
    let total = weights.clone().sum_dim(3);
    let total = match sinks {
        Some(sinks) => total + (sinks - most.clone()).exp(),
        None => total,
    };
    // A row without keys is zeros.
    let divisor = total.clone().mask_fill(total.clone().equal_elem(0.0), 1.0);
    let out = weights.reshape([b, heads, rows, s_k]).matmul(v).reshape([b, h, s_q, d_v]);
    Ok((out / divisor, most, total))
}

fn indices(heads: &[usize], like: &Tensor<4>) -> Tensor<1, Int> {
    let heads: Vec<i32> = heads.iter().map(|&head| head as i32).collect();
    Tensor::from_data(TensorData::new(heads.clone(), [heads.len()]), &like.device())
}

/// One number an output head, as `[1, H, 1, 1]`.
fn per_head(values: &[f32], like: &Tensor<4>) -> Tensor<4> {
    let data = TensorData::new(values.to_vec(), [1, values.len(), 1, 1]);
    Tensor::<4>::from_data(data, &like.device()).cast(like.dtype())
}

/// The queries of the output heads: `cos φ q + sin φ q'`, where q' has `(b, −a)` for each pair (a,
/// b), since `S_im = Qb·Ka − Qa·Kb`, and nothing in the channels that do not rotate.
fn turned(q: Tensor<4>, outputs: &[(usize, Phase)], options: &AttentionOptions) -> Tensor<4> {
    let [b, h, s, d] = q.dims();
    let real = |o: usize| outputs[o] == (o, Phase::REAL);
    if outputs.len() == h && (0..h).all(real) {
        return q;
    }
    let rotary_dim = options.rotary_dim.map_or(d, |r| r as usize);
    let layout = Blocks::written(options.pairing, rotary_dim);
    let (first, second) = layout.split(&q);
    let rest = (rotary_dim < d).then(|| q.zeros_like().narrow(3, rotary_dim, d - rotary_dim));
    let turn = layout.join(second, first.neg(), rest);
    let both = |o: usize| {
        let phase = if o.is_multiple_of(2) { Phase::REAL } else { Phase::IMAGINARY };
        outputs[o] == (o / 2, phase)
    };
    if outputs.len() == 2 * h && (0..2 * h).all(both) {
        return Tensor::stack::<5>(vec![q, turn], 2).reshape([b, 2 * h, s, d]);
    }
    let sources: Vec<usize> = outputs.iter().map(|(source, _)| *source).collect();
    let index = indices(&sources, &q);
    let weights = |f: fn(Phase) -> f64| -> Vec<f32> {
        outputs.iter().map(|(_, phase)| f(*phase) as f32).collect()
    };
    let (cos, sin) = (per_head(&weights(Phase::cos), &q), per_head(&weights(Phase::sin), &q));
    q.select(1, index.clone()) * cos + turn.select(1, index) * sin
}

fn rotate(rotary: &Rotary, x: Tensor<4>, positions: &Positions, side: Side) -> Result<Tensor<4>> {
    let [b, _, s, d] = x.dims();
    rotary.check([b, s], positions, &x.device())?;
    let [_, pairs, _] = rotary.tables[0].dims();
    let entries = entries(rotary, side, positions, s).cast(x.dtype());
    let entry = |n: usize| {
        let [batches, s, _, _] = entries.dims();
        entries.clone().narrow(3, n, 1).reshape([batches, 1, s, pairs])
    };
    let (cos, sin) = (entry(0), entry(1));
    let rotary_dim = 2 * pairs;
    let (first, second) = Blocks::read(rotary.pairing, rotary_dim).split(&x);
    let rest = (rotary_dim < d).then(|| x.narrow(3, rotary_dim, d - rotary_dim));
    let turned = first.clone() * cos.clone() - second.clone() * sin.clone();
    Ok(Blocks::written(rotary.pairing, rotary_dim).join(turned, second * cos + first * sin, rest))
}

/// `[B or 1, S, pairs, 2]`: cosine and sine of every row and pair.
fn entries(rotary: &Rotary, side: Side, positions: &Positions, seq: usize) -> Tensor<4> {
    let table = rotary.table(side);
    let [_, pairs, _] = table.dims();
    let ids = match positions {
        Positions::From(first) => {
            let rows = table.narrow(0, *first as usize, seq);
            return rows.reshape([1, seq, pairs, 2]);
        }
        Positions::Ids(ids) => ids,
    };
    let [_, batches, _] = ids.dims();
    let of = |stream: usize| {
        let ids = ids.clone().narrow(0, stream, 1).reshape([batches * seq]);
        table.clone().select(0, ids).reshape([batches, seq, pairs, 2])
    };
    let Some(axes) = &rotary.axes else { return of(0) };
    let streams = axes.iter().map(|&axis| usize::from(axis) + 1).max().unwrap_or(1);
    let of = |stream: usize| {
        let driven = axes.iter().map(|&axis| f32::from(u8::from(usize::from(axis) == stream)));
        let data = TensorData::new(driven.collect::<Vec<_>>(), [1, 1, pairs, 1]);
        of(stream) * Tensor::<4>::from_data(data, &table.device())
    };
    (1..streams).fold(of(0), |sum, stream| sum + of(stream))
}

/// How pairs lie in the channels that rotate: blocks of `half` first members and `half` second
/// ones.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    blocks: usize,
    half: usize,
}

impl Blocks {
    fn read(pairing: Pairing, rotary_dim: usize) -> Self {
        let pairs = rotary_dim / 2;
        let blocks = match pairing {
            Pairing::Half => 1,
            Pairing::Interleaved | Pairing::InterleavedToHalf => pairs,
            Pairing::HalfBlocks(n) => n as usize,
        };
        Self { blocks, half: pairs / blocks }
    }

    fn written(pairing: Pairing, rotary_dim: usize) -> Self {
        match pairing {
            Pairing::InterleavedToHalf => Self::read(Pairing::Half, rotary_dim),
            other => Self::read(other, rotary_dim),
        }
    }

    /// First and second members, `[B, H, S, pairs]` each.
    fn split(self, x: &Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let Self { blocks, half } = self;
        let [b, h, s, _] = x.dims();
        let x = x.clone().narrow(3, 0, 2 * blocks * half);
        if blocks == 1 {
            return (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        }
        let x = x.reshape([b, h, s, blocks, 2, half]);
        let member = |n| x.clone().narrow(4, n, 1).reshape([b, h, s, blocks * half]);
        (member(0), member(1))
    }

    /// The other way round, with the channels behind them.
    fn join(self, first: Tensor<4>, second: Tensor<4>, rest: Option<Tensor<4>>) -> Tensor<4> {
        let Self { blocks, half } = self;
        let [b, h, s, _] = first.dims();
        let mut parts = match blocks {
            1 => vec![first, second],
            _ => {
                let [first, second] = [first, second].map(|t| t.reshape([b, h, s, blocks, half]));
                let pairs = Tensor::stack::<6>(vec![first, second], 4);
                vec![pairs.reshape([b, h, s, 2 * blocks * half])]
            }
        };
        parts.extend(rest);
        Tensor::cat(parts, 3)
    }
}
