// The parameters of the passes of a backward call.

struct Params {
    batch: u32,
    seq_q: u32,
    seq_k: u32,
    kv_heads: u32,
    group: u32,        // query heads a key head
    groups_x: u32,     // workgroups along x
    chunks: u32,       // of the rows whose states the pass reads or writes
    tiles: u32,        // of the rows whose gradient it computes
    heads_out: u32,
    resume: u32,       // 1: the scan starts from the state bound, 0: from zero
    plane_q: u32,      // table plane of q
    plane_k: u32,      // table plane of k
    states_at: u32,    // where the workspace holds what: the states of the pass,
    z_at: u32,         // z at every row,
    rows_at: u32,      // and (1 / denominator, r) of every output row
    q_heads: u32,
    q: Strides,
    k: Strides,
    v: Strides,
    out: Strides,
    d_out: Strides,
    grad: Strides,     // dq, dk or dv, in single channels
    rotary: Rotary,    // of the rows that the pass rotates
}

@group(0) @binding(0) var<uniform> params: Params;

// Where the states lie in the workspace.
fn states_at() -> u32 {
    return params.states_at;
}
