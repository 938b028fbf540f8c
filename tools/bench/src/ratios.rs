//! Prefill: plain, two passes, one packed pass, and the fused pass, over the same tensors.

use phasor::{Cost, HeadMap};

use crate::Result;
use crate::prefill::{Sizes, Tensors};
use crate::roof::Roof;
use crate::timing::{Clock, Time, print};

/// Times of one set of sizes.
pub struct Comparison {
    pub sizes: Sizes,
    /// Name, time and work of each way, in the order of [`WAYS`].
    pub ways: [(Time, Cost); 4],
    /// Share of the rate of multiply-adds that each way reached.
    pub shares: [f64; 4],
    pub fused_over_two_passes: f64,
    pub fused_over_packed: f64,
}

/// Plain is the real component alone, the other three give real and imaginary.
pub const WAYS: [&str; 4] = ["plain", "two passes", "packed", "fused"];

pub fn measure(clock: &Clock<'_>, roof: &Roof, quick: bool) -> Result<Vec<Comparison>> {
    // Enough workgroups to fill a GPU, little enough work for a CPU.
    let software = clock.gpu.capabilities().software;
    let (lengths, heads): (&[u32], u32) = match (software, quick) {
        (true, true) => (&[1024], 4),
        (true, false) => (&[512, 1024, 2048], 8),
        (false, true) => (&[4096], 16),
        (false, false) => (&[1024, 2048, 4096, 8192], 32),
    };
    let mut comparisons = Vec::new();
    for dim in [64, 128] {
        for &seq in lengths {
            for kv_heads in [heads, heads / 4] {
                let sizes = Sizes { seq, dim, heads, kv_heads };
                println!(
                    "causal prefill, S {seq}, D {dim}, {heads} query heads, {kv_heads} kv heads, f32"
                );
                let tensors = Tensors::new(clock, sizes);
                let real = tensors.pass(clock, HeadMap::plain(heads)?, None)?;
                let imaginary = tensors.pass(clock, HeadMap::imago(heads)?, None)?;
                let fused = tensors.pass(clock, HeadMap::ropepp(heads)?, None)?;
                let doubled = tensors.packed(clock);
                let packed = doubled.pass(clock, HeadMap::plain(2 * heads)?, Some(&real))?;
                let race = clock.race(&[
                    &|pass| real.dispatch.record(pass),
                    &|pass| {
                        real.dispatch.record(pass);
                        imaginary.dispatch.record(pass);
                    },
                    &|pass| packed.dispatch.record(pass),
                    &|pass| fused.dispatch.record(pass),
                    &|pass| roof.record_fma(pass),
                ]);
                let mut both = real.cost;
                both.flops += imaginary.cost.flops;
                both.bytes += imaginary.cost.bytes;
                let costs = [real.cost, both, packed.cost, fused.cost];
                let ways = [0, 1, 2, 3].map(|i| (race.best[i], costs[i]));
                let shares = [0, 1, 2, 3].map(|i| roof.share_of_fma(costs[i].flops, &race, i, 4));
                for ((name, (time, cost)), share) in WAYS.iter().zip(&ways).zip(shares) {
                    let gflops = cost.flops as f64 / time.ms() * 1e-6;
                    let share = 100.0 * share;
                    print(name, time, &format!("{gflops:8.1} GFLOP/s, {share:5.1} % of the roof"));
                }
                let comparison = Comparison {
                    sizes,
                    ways,
                    shares,
                    fused_over_two_passes: race.ratio(3, 1),
                    fused_over_packed: race.ratio(3, 2),
                };
                println!(
                    "  fused / two passes {:.2}, fused / packed {:.2}\n",
                    comparison.fused_over_two_passes, comparison.fused_over_packed
                );
                comparisons.push(comparison);
            }
        }
    }
    Ok(comparisons)
}
