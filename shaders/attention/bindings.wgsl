// What an attention call binds, and what a workgroup is told of its work.

// Where lengths and tables start, where they share a buffer.
struct Lists {
    kv_lens: u32,      // 0xffffffff: all keys are there
    cu_seqlens_q: u32,
    cu_seqlens_k: u32,
    block_table: u32,
    prefix_lens: u32,
    blocks: u32,
    pad0: u32,
    pad1: u32,
}

struct Params {
    batch: u32,
    seq_q: u32,               // most queries of a sequence
    seq_k: u32,               // most keys of a sequence
    group: u32,               // query heads a key head
    groups_x: u32,            // workgroups along x
    tiles: u32,               // query tiles
    first_group: u32,         // of this part of the call
    part_groups: u32,
    first_step: u32,          // key tiles of this part, from the first that a workgroup visits
    end_step: u32,
    last_part: u32,           // 0: states are left in the workspace
    head_rows: u32,            // rows of the table of head rows in use
    offset: i32,              // query i stands at place i + offset among the keys
    // Keys after its place that a query sees: none if causal, far more than there are if full.
    ahead: i32,
    align_last: u32,          // 1: the last query of a sequence stands at its last key
    window: i32,              // a query sees keys after its place - window
    q_scale: f32,             // on q, so that scores come in base 2, or as the softcap takes them
    softcap: f32,             // in base 2; 0: none
    minus_infinity: f32,
    store_lse: u32,
    lse_batch: u32,           // strides of lse
    lse_head: u32,
    total_q: u32,             // rows of a ragged q
    place_among_keys: u32,    // 1: a query's position is its place among the keys
    blocks_batch: u32,        // strides of the block list
    blocks_row: u32,
    causal: u32,
    bundle: u32,              // head rows of a batch that go through the tiles together
    zero: u32,                // 0, unknown to a compiler: loops with it in their bounds stay loops
    pad0: u32,                // a struct within a uniform starts at a multiple of 16 bytes
    pad1: u32,
    pad2: u32,
    lists: Lists,
    q: Strides,
    out: Strides,
    out_im: Strides,
    bias: Strides,              // of single entries
    cache: Cache,             // keys and values, in a cache or as tensors
    rotary: Rotary,
}

@group(0) @binding(0) var<uniform> params: Params;

// Queries of one sequence: the first one's row in q, and how many.
struct QueryRows {
    first: u32,
    count: u32,
}

// What a workgroup works on.
struct Work {
    batch: u32,
    rows: QueryRows,
    offset: i32,    // place of query 0 among the keys
    keys: u32,
    prefix: i32,    // keys that all queries see
    k_head: u32,    // where the key head's rows start
    v_head: u32,
    tile: u32,      // query tile
    start: u32,     // first key that it visits
    end: u32,       // one past the last
    head_row: HeadRow,
}

// Four pairs of one row: first and second members.
struct Pairs {
    a: vec4<f32>,
    b: vec4<f32>,
}

