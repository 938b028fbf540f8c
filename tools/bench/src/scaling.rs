//! Plain causal prefill against length.

use phasor::{Cost, HeadMap};

use crate::Result;
use crate::prefill::{Pass, Sizes, Tensors};
use crate::roof::Roof;
use crate::timing::{Clock, Time, print};

pub struct Point {
    pub sizes: Sizes,
    pub time: Time,
    pub cost: Cost,
    pub share: f64,
    /// Times as long as the length before.
    pub growth: Option<f64>,
}

/// Lengths double. One head in a quick run on a CPU, enough to fill a GPU elsewhere.
pub fn measure(clock: &Clock<'_>, roof: &Roof, quick: bool) -> Result<Vec<Point>> {
    let software = clock.gpu.capabilities().software;
    let heads = if !software {
        32
    } else if quick {
        1
    } else {
        4
    };
    println!("causal prefill against length, D 64, {heads} heads, f32");
    let mut passes: Vec<(Sizes, Pass)> = Vec::new();
    for seq in [1024, 2048, 4096, 8192] {
        let sizes = Sizes { seq, dim: 64, heads, kv_heads: heads };
        let like = passes.last().map(|(_, pass)| pass);
        let pass = Tensors::new(clock, sizes).pass(clock, HeadMap::plain(heads)?, like)?;
        passes.push((sizes, pass));
    }
    let [a, b, c, d] = [0, 1, 2, 3].map(|i: usize| &passes[i].1.dispatch);
    let race = clock.race(&[
        &|p| a.record(p),
        &|p| b.record(p),
        &|p| c.record(p),
        &|p| d.record(p),
        &|p| roof.record_fma(p),
    ]);
    let mut points = Vec::new();
    for (i, (sizes, pass)) in passes.iter().enumerate() {
        let (sizes, cost, time) = (*sizes, pass.cost, race.best[i]);
        let share = roof.share_of_fma(cost.flops, &race, i, passes.len());
        let growth = (i > 0).then(|| race.ratio(i, i - 1));
        let gflops = cost.flops as f64 / time.ms() * 1e-6;
        let grown = growth.map_or(String::new(), |n| format!(", {n:.2} times the length before"));
        let percent = 100.0 * share;
        let figures = format!("{gflops:8.1} GFLOP/s, {percent:5.1} % of the roof{grown}");
        print(&format!("S {}", sizes.seq), &time, &figures);
        points.push(Point { sizes, time, cost, share, growth });
    }
    println!();
    Ok(points)
}
