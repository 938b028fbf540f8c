//! The JSON to post.
//!
//! ```text
//! { "schema": 1, "crate": "phasor 0.1.0", "quick": bool,
//!   "adapter": { "name", "backend", "driver", "driver_info", "device_type" },      strings
//!   "roof":    { "gflops", "copy_gbs", "dispatch_us", "submit_us" },
//!   "rope":    [ { "seq", "dim", "q_heads", "k_heads", TIME, "bytes", "gbs" } ],
//!   "prefill": [ { "seq", "dim", "heads", "kv_heads", "way", TIME, "flops", "bytes", "share_of_roof" } ],
//!   "scaling": as prefill, with lengths that double
//!   "summary": the worst case of each: { "fused_over_two_passes", "fused_over_packed", "rope_over_copy",
//!              "prefill_share_of_roof", "prefill_time_growth_per_doubling" } }
//! TIME is "pass_ms" (null where the adapter has no timestamps), "wall_ms" and "clocks_disagree".
//! ```
//!
//! "way" is one of "plain", "two passes", "packed" and "fused". Times are of one call; flops and bytes
//! are what the result needs, masked and padded work not counted.

use phasor::plan::attention::Cost;
use phasor_kit::gpu::Gpu;
use serde_json::{Value, json};

use crate::prefill::Sizes;
use crate::ratios::{Comparison, WAYS};
use crate::roof::Roof;
use crate::rotation::Rotation;
use crate::scaling::Point;
use crate::timing::Time;

pub fn build(
    gpu: &Gpu,
    quick: bool,
    roof: &Roof,
    rotations: &[Rotation],
    comparisons: &[Comparison],
    scaling: &[Point],
) -> Value {
    let rope: Vec<Value> = rotations
        .iter()
        .map(|r| {
            let [q_heads, k_heads] = r.heads;
            let own = json!({ "seq": r.seq, "dim": r.dim, "q_heads": q_heads, "k_heads": k_heads,
                "bytes": r.bytes, "gbs": r.gbs() });
            with_time(own, &r.time)
        })
        .collect();
    let prefill: Vec<Value> = comparisons
        .iter()
        .flat_map(|c| {
            let way = |i: usize| {
                let (time, cost) = &c.ways[i];
                attention(roof, &c.sizes, WAYS[i], time, cost)
            };
            (0..WAYS.len()).map(way).collect::<Vec<_>>()
        })
        .collect();
    let points: Vec<Value> =
        scaling.iter().map(|p| attention(roof, &p.sizes, "plain", &p.time, &p.cost)).collect();
    let worst = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
    let share = |(time, cost): &(Time, Cost)| roof.share(cost.flops, cost.bytes, time.ms());
    let least_share = comparisons
        .iter()
        .flat_map(|c| [share(&c.ways[0]), share(&c.ways[3])])
        .fold(f64::INFINITY, f64::min);
    let rope_over_copy = rotations.iter().map(|r| r.over_copy(roof)).fold(f64::INFINITY, f64::min);
    json!({
        "schema": 1,
        "crate": concat!("phasor ", env!("CARGO_PKG_VERSION")),
        "quick": quick,
        "adapter": {
            "name": gpu.info.name,
            "backend": format!("{:?}", gpu.info.backend),
            "driver": gpu.info.driver,
            "driver_info": gpu.info.driver_info,
            "device_type": format!("{:?}", gpu.info.device_type),
        },
        "roof": {
            "gflops": roof.gflops,
            "copy_gbs": roof.copy_gbs,
            "dispatch_us": roof.dispatch_us,
            "submit_us": roof.submit_us,
        },
        "rope": rope,
        "prefill": prefill,
        "scaling": points,
        "summary": {
            "fused_over_two_passes":
                worst(&mut comparisons.iter().map(Comparison::fused_over_two_passes)),
            "fused_over_packed": worst(&mut comparisons.iter().map(Comparison::fused_over_packed)),
            "rope_over_copy": rope_over_copy,
            "prefill_share_of_roof": least_share,
            "prefill_time_growth_per_doubling":
                worst(&mut scaling.windows(2).map(|w| w[1].time.ms() / w[0].time.ms())),
        },
    })
}

fn attention(roof: &Roof, sizes: &Sizes, way: &str, time: &Time, cost: &Cost) -> Value {
    let own = json!({ "seq": sizes.seq, "dim": sizes.dim, "heads": sizes.heads,
        "kv_heads": sizes.kv_heads, "way": way, "flops": cost.flops, "bytes": cost.bytes,
        "share_of_roof": roof.share(cost.flops, cost.bytes, time.ms()) });
    with_time(own, time)
}

fn with_time(mut value: Value, time: &Time) -> Value {
    value["pass_ms"] = json!(time.pass_ms);
    value["wall_ms"] = json!(time.wall_ms);
    value["clocks_disagree"] = json!(time.disagree());
    value
}

pub fn print_summary(document: &Value) {
    println!("worst of each:");
    for (name, value) in document["summary"].as_object().into_iter().flatten() {
        println!("  {name:34} {:.3}", value.as_f64().unwrap_or(f64::NAN));
    }
}
