// The parameters of the passes of a call.

struct Params {
    batch: u32,
    seq_q: u32,
    seq_k: u32,
    kv_heads: u32,
    group: u32,        // query heads a key head
    groups_x: u32,     // workgroups along x
    chunks: u32,       // of the keys
    tiles: u32,        // of the queries; under a causal mask, the same
    heads_out: u32,
    resume: u32,       // 1: the scan starts from the state bound, 0: from zero
    plane_q: u32,      // table plane of q
    plane_k: u32,      // table plane of k
    q: Strides,
    k: Strides,
    v: Strides,
    out: Strides,
    rotary: Rotary,
}

@group(0) @binding(0) var<uniform> params: Params;

// Where the states lie in the workspace.
fn states_at() -> u32 {
    return 0u;
}
