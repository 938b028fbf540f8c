//! Prefill on matrix units beside prefill in f32.

use phasor::{DType, HeadMap, Precision};

use crate::Result;
use crate::prefill::{Sizes, Tensors};
use crate::timing::{Clock, Time};

/// Precisions, and the storage of all tensors. The first is what the others are compared with.
const TIERS: [(Precision, DType); 5] = [
    (Precision::F32, DType::F32),
    (Precision::F32, DType::F16),
    (Precision::F16Products, DType::F32),
    (Precision::F16Products, DType::F16),
    (Precision::F16x3Products, DType::F32),
];

/// One stream, both in two passes, and both fused.
pub const WAYS: [&str; 3] = ["plain", "two passes", "fused"];

/// One precision and storage at one size.
pub struct Tier {
    pub sizes: Sizes,
    pub precision: Precision,
    pub stored: DType,
    /// Times and FLOPs of each of [`WAYS`].
    pub ways: [(Time, u64); 3],
    /// Medians of fused over two passes.
    pub fused_over_two: f64,
}

impl Tier {
    fn tflops(&self, way: usize) -> f64 {
        let (time, flops) = &self.ways[way];
        *flops as f64 / time.ms() * 1e-9
    }

    fn print(&self, f32_is: &Self) {
        print!("  {}, stored in {}:", self.precision, self.stored);
        for (way, name) in WAYS.into_iter().enumerate() {
            let (ms, tflops) = (self.ways[way].0.ms(), self.tflops(way));
            let digits = if tflops < 1.0 { 4 } else { 1 };
            let times = f32_is.ways[way].0.ms() / ms;
            print!(" {name} {ms:.3} ms, {tflops:.digits$} TFLOP/s, {times:.2} x f32;");
        }
        println!(" fused / two passes {:.2}", self.fused_over_two);
    }
}

/// Times of causal prefill in every precision, from rounds in which the three ways ran in turns.
/// An adapter without matrix units is an error that says what it lacks.
pub fn measure(clock: &Clock<'_>, quick: bool) -> Result<Vec<Tier>> {
    let (lengths, heads): (&[u32], u32) = match (clock.gpu.capabilities().software, quick) {
        (true, _) => (&[256], 2),
        (false, true) => (&[4096], 16),
        (false, false) => (&[1024, 2048, 4096, 8192], 16),
    };
    let mut all = Vec::new();
    for dim in [64, 128] {
        for &seq in lengths {
            println!("causal prefill on matrix units, S {seq}, D {dim}, {heads} heads");
            let sizes = Sizes { seq, dim, heads, kv_heads: heads };
            let first = all.len();
            for (precision, stored) in TIERS {
                let tensors = Tensors { precision, ..Tensors::new(clock, sizes) };
                all.push(tier(clock, &tensors.stored_in(clock, stored))?);
                all[all.len() - 1].print(&all[first]);
            }
        }
    }
    println!();
    Ok(all)
}

fn tier(clock: &Clock<'_>, tensors: &Tensors) -> Result<Tier> {
    let heads = tensors.sizes.heads;
    let pass = |map| tensors.pass(clock, map, None);
    let real = pass(HeadMap::plain(heads)?)?;
    let imaginary = pass(HeadMap::imago(heads)?)?;
    let fused = pass(HeadMap::ropepp(heads)?)?;
    let race = clock.race(&[
        &|pass| real.dispatch.record(pass),
        &|pass| {
            real.dispatch.record(pass);
            imaginary.dispatch.record(pass);
        },
        &|pass| fused.dispatch.record(pass),
    ]);
    let fused_over_two = race.ratio(2, 1);
    let [plain, two, both] = race.best.try_into().map_err(|_| "three ways were timed")?;
    let [real, imaginary, fused] = [real, imaginary, fused].map(|pass| pass.cost.flops);
    Ok(Tier {
        sizes: tensors.sizes,
        precision: tensors.precision,
        stored: tensors.stored,
        ways: [(plain, real), (two, real + imaginary), (both, fused)],
        fused_over_two,
    })
}
