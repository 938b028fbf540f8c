//! What the example prints.

use phasor::HeadMap;

use crate::{Result, gpu::Run, layer::Layer, reference::Reference};

pub fn input(layer: &Layer) {
    let [_, q_heads, seq, dim] = layer.q_shape;
    println!("input     {}", layer.title);
    println!(
        "          {q_heads} query heads, {} kv heads, {seq} positions, head_dim {dim}, theta {}, {:?} pairs",
        layer.kv_heads(),
        layer.theta,
        layer.pairing
    );
}

/// Adapter, plans and times.
pub fn gpu(run: &Run) {
    println!("adapter   {}", run.adapter);
    for plan in &run.plans {
        for (i, line) in plan.lines().enumerate() {
            println!("{:10}{line}", if i == 0 { "plan" } else { "" });
        }
    }
    let times = &run.times;
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    println!("times     {:8.2} ms  rotation of q and k", ms(times.rope));
    println!("          {:8.2} ms  plain RoPE attention (real)", ms(times.plain));
    println!("          {:8.2} ms  real + imaginary, two passes", ms(times.two_passes));
    println!(
        "          {:8.2} ms  real + imaginary, one pass: {:.2} of two",
        ms(times.fused),
        times.fused.as_secs_f64() / times.two_passes.as_secs_f64()
    );
}

/// Prints the largest error of every result against the f64 oracle beside its bound, and says
/// whether all are within.
pub fn check(
    run: &Run,
    layer: &Layer,
    truth: &Reference<'_, f64>,
    naive: &Reference<'_, f32>,
) -> Result<bool> {
    let plain = HeadMap::plain(layer.q_heads())?;
    let plain = (truth.attention(plain.heads())?, naive.attention(plain.heads())?);
    let both = HeadMap::ropepp(layer.q_heads())?;
    let fused = (truth.attention(both.heads())?, naive.attention(both.heads())?);

    println!("errors    largest    bound    against the f64 oracle");
    let lines = [
        line("rotated q", &run.q, &truth.q, &naive.q),
        line("rotated k", &run.k, &truth.k, &naive.k),
        line("plain attention", &run.plain.out, &plain.0.out, &plain.1.out),
        line("plain log-sum-exp", &run.plain.lse, &plain.0.lse, &plain.1.lse),
        line("fused attention, real and imaginary", &run.fused.out, &fused.0.out, &fused.1.out),
        line("fused log-sum-exp", &run.fused.lse, &fused.0.lse, &fused.1.lse),
    ];
    Ok(lines.iter().all(|&within| within))
}

/// A program of f32 arithmetic may be off by twice what a naive one is, and by one rounding of the
/// largest value where the naive one happens to be exact.
fn line(what: &str, got: &[f32], truth: &[f64], naive: &[f32]) -> bool {
    // `max` drops a NaN, so it must not reach it.
    let worst = |values: &[f32]| {
        values
            .iter()
            .zip(truth)
            .map(|(&x, t)| (f64::from(x) - t).abs())
            .fold(0.0, |m, e| if e.is_nan() { f64::INFINITY } else { f64::max(m, e) })
    };
    let largest = truth.iter().fold(0.0, |m: f64, t| m.max(t.abs()));
    let (error, bound) = (worst(got), 2.0 * worst(naive) + f64::from(f32::EPSILON) * largest);
    let within = got.len() == truth.len() && error <= bound;
    let verdict = if within { "" } else { "  EXCEEDED" };
    println!("          {error:.1e}  {bound:.1e}  {what}{verdict}");
    within
}
