// What the passes of a backward call bind. Numbers of the tensors are those of the forward pass
// where it has them.

// Where positions come from.
struct Rotary {
    first_position: u32,     // position of row 0 where no ids are given
    use_ids: u32,            // 1: positions come from ids
    ids_stream_stride: u32,  // entries between position streams (M-RoPE, axial)
    ids_batch_stride: u32,   // entries between batches; 0: one list for all
    table_positions: u32,    // rows of the table
    pairs: u32,              // pairs a row, rotary_dim / 2
    use_axes: u32,           // 1: each pair reads the position stream that `axes` names
    planes: u32,             // 1, or 2 where keys have a plane of their own (xPos)
    axes: array<vec4<u32>, 4>, // 2 bits a pair: its position stream
}

struct Params {
    batch: u32,
    seq_q: u32,            // most queries of a sequence
    seq_k: u32,            // most keys of a sequence
    group: u32,            // query heads a key head
    groups_x: u32,         // workgroups along x
    tiles: u32,            // tiles of own rows a head
    first_group: u32,      // of this part of the call
    part_groups: u32,
    head_rows: u32,         // rows of the table of head rows in use
    offset: i32,           // place of query 0 among the keys
    align_last: u32,       // 1: the last query of a sequence stands at its last key
    window: i32,           // a query sees keys after its place less this
    causal: u32,
    q_scale: f32,          // of q: softmax_scale, in base 2 or by the softcap
    scale: f32,            // softmax_scale
    softcap: f32,          // in base 2; 0: none
    q_heads: u32,
    kv_heads: u32,
    heads_out: u32,
    total_q: u32,          // rows of q: S_q, or those of a ragged q
    extent_k: u32,         // rows of a ragged k
    q_batches: u32,        // batches of q's tensor: 1 where it is ragged
    rows_at: u32,          // where the workspace holds what: (lse, δ) of every output row,
    rows_batch: u32,
    rows_head: u32,
    q_places_at: u32,      // and the place in the cos/sin table of every query
    k_places_at: u32,      // and key
    streams: u32,          // position streams
    q_among_keys: u32,     // 1: a query's position is its place among the keys
    zero: u32,             // 0, unknown to a compiler: loops with it in their bounds stay loops
    ahead: i32,            // keys after its place that a query sees
    k_scale: f32,          // softmax_scale / q_scale, for dk: queries came scaled
    // In groups of four channels; gradients in single ones, and the bias in single entries.
    q: Strides,
    k: Strides,
    v: Strides,
    out: Strides,
    d_out: Strides,
    grad: Strides,           // dq or dk
    dv: Strides,
    bias: Strides,           // of single entries
    rotary: Rotary,        // of queries
    k_rotary: Rotary,
}

@group(0) @binding(0) var<uniform> params: Params;

// The log-sum-exp of a row that gives no gradient: its weights are 0, and a hidden key's score less
// this does not overflow.
const DEAD: f32 = 2.0e35;

// Rows of one sequence: the first one's row in its tensor, and how many.
struct QueryRows {
    first: u32,
    count: u32,
}
