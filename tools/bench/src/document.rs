//! The JSON to post.
//!
//! ```text
//! { "schema": 1, "crate": "phasor 0.1.0", "quick": bool,
//!   "adapter": { "name", "backend", "driver", "driver_info", "device_type" },      strings
//!   "roof":    { "gflops", "copy_gbs", "dispatch_us", "submit_us" },
//!   "rope":    [ { "seq", "dim", "q_heads", "k_heads", TIME, "bytes", "gbs" } ],
//!   "append":  [ { "rows", "dim", "kv_heads", TIME, "bytes", "gbs" } ],
//!   "move":    as append, of the rows of a context shift
//!   "prefill": [ { "seq", "dim", "heads", "kv_heads", "way", TIME, "flops", "bytes",
//!                  "share_of_roof" } ],
//!   "decode":  [ { "model", "cache", "kv", "dim", "heads", "kv_heads", "way", TIME, "bytes",
//!                  "gbs", "over_copy" } ],
//!   "scaling": as prefill, with lengths that double
//!   "linear":  [ { "seq", "dim", "heads", "kv_heads", "way", TIME, "flops", "bytes" } ],
//!   "backward": [ { "seq", "dim", "heads", "kv_heads", "way", TIME, "flops", "bytes" } ],
//!   "matrices": [ { "seq", "dim", "heads", "precision", "stored", "way", TIME, "flops",
//!                   "tflops", "fused_over_two_passes" } ],
//!   "summary": the worst case of each: { "fused_over_two_passes", "fused_over_packed",
//!              "decode_fused_over_plain", "rope_over_copy", "append_over_copy",
//!              "move_over_copy", "prefill_share_of_roof", "prefill_time_growth_per_doubling",
//!              "linear_growth_4k_to_32k", "linear_over_softmax_32k",
//!              "backward_fused_over_two_passes", "backward_over_forward" } }
//! Ratios and shares are medians over rounds in which the calls ran in turns, the roof's own
//! kernels among them, so that they hold where the machine's speed moves. Of parts that --only
//! leaves out, lists are empty and worst cases null.
//! TIME is "pass_ms" (null where the adapter has no timestamps), "wall_ms" and "clocks_disagree".
//! ```
//!
//! "way" is one of "plain", "two passes", "packed" and "fused"; decode has the first and the last,
//! for the "model" EC (query and kv heads of a plain model) and EH (half of both), over a "cache"
//! of f32, f16 or int8. Linear attention
//! has "linear", "linear, backward", "linear, one token" (a call for the last token, from a state)
//! and "softmax". Times are of one call; flops and bytes are what the result needs, masked and
//! padded work not counted.

use phasor::Cost;
use phasor_kit::gpu::Gpu;
use serde_json::{Value, json};

use crate::append::Append;
use crate::backward::{self, Backward};
use crate::decode::{self, Decoding};
use crate::linear::{self, Linear};
use crate::matrices::{self, Tier};
use crate::prefill::Sizes;
use crate::ratios::{Comparison, WAYS};
use crate::roof::Roof;
use crate::rotation::Rotation;
use crate::scaling::Point;
use crate::timing::Time;

/// All that was measured beside the roof.
pub struct Measured<'a> {
    pub rotations: &'a [Rotation],
    pub appends: &'a [Append],
    pub moves: &'a [Append],
    pub comparisons: &'a [Comparison],
    pub decodings: &'a [Decoding],
    pub scaling: &'a [Point],
    pub linear: &'a [Linear],
    pub backward: &'a [Backward],
    pub matrices: &'a [Tier],
}

pub fn build(gpu: &Gpu, quick: bool, roof: &Roof, measured: &Measured<'_>) -> Value {
    let Measured {
        rotations,
        appends,
        moves,
        comparisons,
        decodings,
        scaling,
        linear,
        backward,
        matrices,
    } = *measured;
    let rope: Vec<Value> = rotations
        .iter()
        .map(|r| {
            let [q_heads, k_heads] = r.heads;
            let own = json!({ "seq": r.seq, "dim": r.dim, "q_heads": q_heads, "k_heads": k_heads,
                "bytes": r.bytes, "gbs": r.gbs() });
            with_time(own, &r.time)
        })
        .collect();
    let rows = |all: &[Append]| -> Vec<Value> {
        let row = |a: &Append| {
            let own = json!({ "rows": a.rows, "dim": a.dim, "kv_heads": a.kv_heads,
                "bytes": a.bytes, "gbs": a.gbs() });
            with_time(own, &a.time)
        };
        all.iter().map(row).collect()
    };
    let decode: Vec<Value> = decodings.iter().flat_map(decoding).collect();
    let prefill: Vec<Value> = comparisons
        .iter()
        .flat_map(|c| {
            let way = |i: usize| {
                let (time, cost) = &c.ways[i];
                attention(&c.sizes, WAYS[i], time, cost, c.shares[i])
            };
            (0..WAYS.len()).map(way).collect::<Vec<_>>()
        })
        .collect();
    let points: Vec<Value> =
        scaling.iter().map(|p| attention(&p.sizes, "plain", &p.time, &p.cost, p.share)).collect();
    let linear_points: Vec<Value> = linear
        .iter()
        .map(|point| {
            let Sizes { seq, dim, heads, kv_heads } = point.sizes;
            let own = json!({ "seq": seq, "dim": dim, "heads": heads, "kv_heads": kv_heads,
                "way": point.way, "flops": point.flops, "bytes": point.bytes });
            with_time(own, &point.time)
        })
        .collect();
    let backward_points: Vec<Value> = backward
        .iter()
        .flat_map(|b| {
            let Sizes { seq, dim, heads, kv_heads } = b.sizes;
            backward::WAYS.iter().zip(&b.ways).map(move |(way, (time, cost))| {
                let own = json!({ "seq": seq, "dim": dim, "heads": heads, "kv_heads": kv_heads,
                    "way": way, "flops": cost.flops, "bytes": cost.bytes });
                with_time(own, time)
            })
        })
        .collect();
    let over_forward = backward.iter().flat_map(|b| [b.fused_over_forward, b.plain_over_forward]);
    let worst = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
    let least_share =
        comparisons.iter().flat_map(|c| [c.shares[0], c.shares[3]]).fold(f64::INFINITY, f64::min);
    let rope_over_copy = rotations.iter().map(|r| r.over_copy).fold(f64::INFINITY, f64::min);
    let over_copy = |all: &[Append]| all.iter().map(|a| a.over_copy).fold(f64::INFINITY, f64::min);
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
        "append": rows(appends),
        "move": rows(moves),
        "prefill": prefill,
        "decode": decode,
        "scaling": points,
        "linear": linear_points,
        "backward": backward_points,
        "matrices": matrices.iter().flat_map(of_tier).collect::<Vec<_>>(),
        "summary": {
            "fused_over_two_passes":
                worst(&mut comparisons.iter().map(|c| c.fused_over_two_passes)),
            "fused_over_packed": worst(&mut comparisons.iter().map(|c| c.fused_over_packed)),
            "decode_fused_over_plain": worst(&mut decodings.iter().map(|d| d.fused_over_plain)),
            "rope_over_copy": rope_over_copy,
            "append_over_copy": over_copy(appends),
            "move_over_copy": over_copy(moves),
            "prefill_share_of_roof": least_share,
            "prefill_time_growth_per_doubling":
                worst(&mut scaling.iter().filter_map(|p| p.growth)),
            "linear_growth_4k_to_32k": linear::growth(linear),
            "linear_over_softmax_32k": linear::over_softmax(linear),
            "backward_fused_over_two_passes":
                worst(&mut backward.iter().map(|b| b.fused_over_two_passes)),
            "backward_over_forward": worst(&mut over_forward.into_iter()),
        },
    })
}

fn attention(sizes: &Sizes, way: &str, time: &Time, cost: &Cost, share: f64) -> Value {
    let own = json!({ "seq": sizes.seq, "dim": sizes.dim, "heads": sizes.heads,
        "kv_heads": sizes.kv_heads, "way": way, "flops": cost.flops, "bytes": cost.bytes,
        "share_of_roof": share });
    with_time(own, time)
}

fn of_tier(tier: &Tier) -> Vec<Value> {
    let way = |(way, (time, flops)): (&&str, &(Time, u64))| {
        let own = json!({
            "seq": tier.sizes.seq,
            "dim": tier.sizes.dim,
            "heads": tier.sizes.heads,
            "precision": tier.precision.to_string(),
            "stored": tier.stored.to_string(),
            "way": way,
            "flops": flops,
            "tflops": *flops as f64 / time.ms() * 1e-9,
            "fused_over_two_passes": tier.fused_over_two,
        });
        with_time(own, time)
    };
    matrices::WAYS.iter().zip(&tier.ways).map(way).collect()
}

fn decoding(d: &Decoding) -> Vec<Value> {
    let way = |(way, (time, bytes, over_copy)): (&&str, &(Time, u64, f64))| {
        let own = json!({
            "model": d.model,
            "cache": d.stored.to_string(),
            "kv": d.kv,
            "dim": d.dim,
            "heads": d.heads,
            "kv_heads": d.kv_heads,
            "way": way,
            "bytes": bytes,
            "gbs": *bytes as f64 / time.ms() * 1e-6,
            "over_copy": over_copy,
        });
        with_time(own, time)
    };
    decode::WAYS.iter().zip(&d.ways).map(way).collect()
}

fn with_time(mut value: Value, time: &Time) -> Value {
    value["pass_ms"] = json!(time.pass_ms);
    value["wall_ms"] = json!(time.wall_ms);
    value["clocks_disagree"] = json!(time.disagree());
    value
}

pub fn print_summary(document: &Value) {
    // A part that was left out has no worst case.
    let all = document["summary"].as_object().into_iter().flatten();
    let worst: Vec<_> = all.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
    if !worst.is_empty() {
        println!("worst of each:");
    }
    for (name, value) in worst {
        println!("  {name:34} {value:.3}");
    }
}
