//! Plain causal prefill against length.

use phasor::HeadMap;
use phasor::plan::attention::Cost;

use crate::Result;
use crate::prefill::{Pass, Sizes, Tensors};
use crate::roof::Roof;
use crate::timing::{Clock, Time, print};

pub struct Point {
    pub sizes: Sizes,
    pub time: Time,
    pub cost: Cost,
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
    let mut points: Vec<Point> = Vec::new();
    let mut last: Option<Pass> = None;
    for seq in [1024, 2048, 4096, 8192] {
        let sizes = Sizes { seq, dim: 64, heads, kv_heads: heads };
        let tensors = Tensors::new(clock, sizes);
        let pass = tensors.pass(clock, HeadMap::plain(heads)?, last.as_ref())?;
        let time = clock.race(&[&|p| pass.dispatch.record(p)])[0];
        let gflops = pass.cost.flops as f64 / time.ms() * 1e-6;
        let share = 100.0 * roof.share(pass.cost.flops, pass.cost.bytes, time.ms());
        let growth = points.last().map_or(String::new(), |before| {
            format!(", {:.2} times the length before", time.ms() / before.time.ms())
        });
        let figures = format!("{gflops:8.1} GFLOP/s, {share:5.1} % of the roof{growth}");
        print(&format!("S {seq}"), &time, &figures);
        points.push(Point { sizes, time, cost: pass.cost });
        last = Some(pass);
    }
    println!();
    Ok(points)
}
