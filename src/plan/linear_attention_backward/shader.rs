//! Joins the WGSL files of the backward passes.

use super::Pass;
use crate::plan::linear_attention::{
    LinearAttentionProblem, SUMS_STEP, Tile, WORKGROUP, head_slots, joined,
};
use crate::plan::shader::{stored, wgsl};
use crate::plan::{KernelKind, Shader};

/// What a pass adds to what all have.
struct Parts {
    entry: &'static str,
    /// Vectors of tiles in workgroup memory a quad of their columns; 0: an invocation an entry.
    vectors: u32,
    /// Storage buffers beside the table of cosines and the positions.
    buffers: u32,
    /// Whether it looks output heads up.
    heads: bool,
    files: Vec<&'static str>,
}

fn parts(p: &LinearAttentionProblem, pass: Pass) -> Parts {
    let q = stored!(p.q_dtype, "io/q");
    let k = stored!(p.kv_dtype, "io/k");
    let v = stored!(p.kv_dtype, "io/v");
    let d_out = stored!(p.out_dtype, "io/d_out");
    let out = stored!(p.out_dtype, "io/out_read");
    let keys = wgsl!("linear_attention/keys");
    let plain_keys = wgsl!("linear_attention/plain_keys");
    let queries = wgsl!("linear_attention/queries");
    let plain_queries = wgsl!("linear_attention_backward/plain_queries");
    let query_group = wgsl!("linear_attention_backward/query_group");
    let sums = |buffers, heads, files: [_; 5]| {
        let files = files.into_iter().chain([wgsl!("linear_attention/sums")]).collect();
        Parts { entry: "sums", vectors: 2 * SUMS_STEP, buffers, heads, files }
    };
    let small = |entry, buffers, heads, files| Parts { entry, vectors: 0, buffers, heads, files };
    let gradients = |buffers, own: &[&'static str]| {
        let all = [
            wgsl!("linear_attention_backward/elu_slope"),
            wgsl!("linear_attention_backward/features"),
            wgsl!("linear_attention_backward/e"),
            wgsl!("linear_attention_backward/gradients"),
            d_out,
            queries,
            keys,
            q,
            k,
        ];
        let files = all.into_iter().chain(own.iter().copied()).collect();
        Parts { entry: "gradients", vectors: 3 * 16, buffers, heads: true, files }
    };
    let running = wgsl!("linear_attention_backward/running");
    match pass {
        Pass::KeySums => {
            let entering = wgsl!("linear_attention/entering_keys");
            sums(3, false, [k, v, keys, entering, plain_keys])
        }
        Pass::QuerySums => {
            let entering = wgsl!("linear_attention_backward/entering_queries");
            sums(3, true, [q, d_out, queries, entering, plain_queries])
        }
        Pass::KeyScan | Pass::QueryScan => {
            let state = match (p.state, pass) {
                (false, _) => wgsl!("linear_attention/state_none"),
                (true, Pass::KeyScan) => wgsl!("linear_attention/state_read"),
                (true, _) => wgsl!("linear_attention/state"),
            };
            let buffers = if p.state { 3 } else { 1 };
            small("scan", buffers, false, vec![state, wgsl!("linear_attention/scan")])
        }
        Pass::KeyRunning => small("running", 2, false, vec![k, plain_keys, running]),
        Pass::QueryRunning => small("running", 2, true, vec![q, queries, plain_queries, running]),
        Pass::Rows => {
            let rows = wgsl!("linear_attention_backward/rows");
            small("rows", 4, true, vec![q, d_out, out, queries, rows])
        }
        Pass::Dq => gradients(6, &[v, wgsl!("linear_attention_backward/dq")]),
        Pass::Dk => gradients(6, &[v, query_group, wgsl!("linear_attention_backward/dk")]),
        Pass::Dv => gradients(5, &[query_group, wgsl!("linear_attention_backward/dv")]),
    }
}

pub(super) fn shader(p: &LinearAttentionProblem, tile: &Tile, pass: Pass) -> Shader {
    let Parts { entry, vectors, buffers, heads, files } = parts(p, pass);
    let flags = [("BACK", pass.is_back()), ("KEYS_OWN", matches!(pass, Pass::Dk | Pass::Dv))];
    let before = [wgsl!("linear_attention_backward/params"), wgsl!("linear_attention_backward")];
    let threads = if vectors > 0 { tile.threads() } else { WORKGROUP };
    // The passes of tiles alone rotate.
    let rotates = vectors > 0 && p.rotary_dim > 0;
    Shader {
        kernel: KernelKind::LinearAttentionBackward,
        label: format!(
            "linear attention backward {} D{} Dv{} {}{}{}",
            pass.name(),
            p.head_dim,
            p.value_dim,
            p.q_dtype,
            p.kv_dtype,
            p.out_dtype,
        ),
        source: joined(p, tile, SUMS_STEP, flags, before.into_iter().chain(files)),
        entry,
        overrides: vec![("WORKGROUP", f64::from(threads))],
        workgroup_size: threads,
        workgroup_bytes: 16 * vectors * tile.block() / 4,
        storage_buffers: buffers + if rotates { 2 } else { 0 },
        table_bytes: if heads { 16 * u64::from(head_slots(p)) } else { 0 },
        subgroup: None,
        matrices: None,
    }
}
