//! Prefill on matrix units beside prefill in f32.

use phasor::{HeadMap, Precision};

use crate::Result;
use crate::prefill::{Sizes, Tensors};
use crate::timing::Clock;

/// The first is what the others are compared with.
const TIERS: [Precision; 3] = [Precision::F32, Precision::F16Products, Precision::F16x3Products];

/// Prints times of causal prefill in every precision, from rounds in which they ran in turns: one
/// stream, both in two passes, and both fused. An adapter without matrix units is an error that
/// says what it lacks.
pub fn measure(clock: &Clock<'_>, quick: bool) -> Result<()> {
    let (lengths, heads): (&[u32], u32) = match (clock.gpu.capabilities().software, quick) {
        (true, _) => (&[256], 2),
        (false, true) => (&[4096], 16),
        (false, false) => (&[1024, 2048, 4096, 8192], 16),
    };
    for dim in [64, 128] {
        for &seq in lengths {
            println!(
                "causal prefill on matrix units, S {seq}, D {dim}, {heads} heads, stored in f32"
            );
            let sizes = Sizes { seq, dim, heads, kv_heads: heads };
            let tiers = TIERS.map(|precision| {
                let tensors = Tensors { precision, ..Tensors::new(clock, sizes) };
                let maps =
                    [HeadMap::plain(heads)?, HeadMap::imago(heads)?, HeadMap::ropepp(heads)?];
                let passes = maps.map(|map| tensors.pass(clock, map, None));
                passes.into_iter().collect::<Result<Vec<_>>>()
            });
            let tiers = tiers.into_iter().collect::<Result<Vec<_>>>()?;
            let mut f32_is = [0.0; 3];
            for (precision, passes) in TIERS.iter().zip(&tiers) {
                let [real, imaginary, fused] = &passes[..] else { return Err("three ways".into()) };
                let race = clock.race(&[
                    &|pass| real.dispatch.record(pass),
                    &|pass| {
                        real.dispatch.record(pass);
                        imaginary.dispatch.record(pass);
                    },
                    &|pass| fused.dispatch.record(pass),
                ]);
                let two = real.cost.flops + imaginary.cost.flops;
                let flops = [real.cost.flops, two, fused.cost.flops];
                print!("  {precision}:");
                for (way, name) in ["plain", "two passes", "fused"].into_iter().enumerate() {
                    let ms = race.best[way].ms();
                    let tflops = flops[way] as f64 / ms * 1e-9;
                    if *precision == Precision::F32 {
                        f32_is[way] = ms;
                    }
                    let times = f32_is[way] / ms;
                    print!(" {name} {ms:.3} ms, {tflops:.2} TFLOP/s, {times:.2} x f32;");
                }
                println!(" fused / two passes {:.2}", race.ratio(2, 1));
            }
        }
    }
    println!();
    Ok(())
}
