// What a workgroup of a large pass works on: the rows that it owns, queries for dQ and keys for dK
// and dV, and those that it walks over, keys or queries.

@group(0) @binding(6) var<storage, read> workspace: array<u32>;

struct Work {
    batch: u32,
    rows: QueryRows,     // queries
    offset: i32,    // place of query 0 among the keys
    keys: u32,
    k_first: u32,   // row of the first key
    prefix: i32,    // keys that all queries see
    head: u32,      // query head, or key head
    k_head: u32,    // where the key head's rows start
    v_head: u32,
    own: u32,       // first row of its own
    own_count: u32, // rows of the sequence of that side, padding included
    start: u32,     // first row that it walks over
    end: u32,       // one past the last
    head_row: HeadRow,
}

fn work_of(in_part: u32) -> Work {
    let linear = params.first_group + in_part;
    let heads = select(params.q_heads, params.kv_heads, KEYS_OWN);
    let lines = heads * params.batch;
    // Those that walk the furthest go first: late queries, early keys.
    let step = linear / lines;
    let tile = select(params.tiles - 1u - step, step, KEYS_OWN);
    var work: Work;
    work.batch = linear % lines / heads;
    work.head = linear % heads;
    work.own = tile * BLOCK_R;
    let header = 5u * work.batch;
    work.rows = QueryRows(workspace[header], workspace[header + 1u]);
    work.k_first = workspace[header + 2u];
    work.keys = workspace[header + 3u];
    work.prefix = i32(workspace[header + 4u]);
    work.offset = params.offset;
    if (params.align_last != 0u) {
        work.offset = i32(work.keys) - i32(work.rows.count);
    }
    let kv_head = select(work.head / params.group, work.head, KEYS_OWN);
    work.k_head = params.k.offset + kv_head * params.k.head + work.k_first * params.k.row;
    work.v_head = params.v.offset + kv_head * params.v.head + work.k_first * params.v.row;
    if (KEYS_OWN) {
        work.own_count = select(work.keys, params.seq_k, !RAGGED_KEYS);
        let last = i32(min(work.own + BLOCK_R, work.keys)) - 1;
        // Queries that see the first key, up to those that see the last one.
        let within = i32(work.own) < work.prefix;
        let earliest = select(max(i32(work.own) - work.offset - params.ahead, 0), 0, within);
        let far = last - work.offset + min(params.window, 1 << 30u);
        let latest = select(far, max(far, work.prefix - work.offset), within);
        work.start = u32(earliest) / BLOCK_C * BLOCK_C;
        work.end = select(0u, min(u32(max(latest, 0)), work.rows.count), work.own < work.keys);
    } else {
        work.own_count = work.rows.count;
        let last = i32(min(work.own + BLOCK_R, work.rows.count)) - 1;
        let visible = min(work.keys, u32(max(last + work.offset + params.ahead + 1, work.prefix)));
        let oldest = max(before_window(work.prefix, i32(work.own) + work.offset) + 1, 0);
        work.start = u32(oldest) / BLOCK_C * BLOCK_C;
        work.end = visible;
        if (D_BIAS) {
            // Hidden keys have a gradient too: 0.
            work.start = 0u;
            work.end = select(work.keys, params.seq_k, !RAGGED_KEYS);
        }
    }
    return work;
}

// Whether a head row is for the head that a workgroup owns.
fn owned(work: Work, head_row: HeadRow) -> bool {
    return work.head == head_row.source / select(1u, params.group, KEYS_OWN);
}

// Log-sum-exp in base 2 and δ of a query for a stream. A stream that is not there, and a query that
// is not, weigh nothing.
fn row_numbers(work: Work, stream: u32, query: u32) -> vec2<f32> {
    let row = min(query, work.rows.count - 1u);
    let at = params.rows_at + 2u * (work.batch * params.rows_batch
        + head_of(work.head_row, stream) * params.rows_head + work.rows.first + row);
    let exists = query < work.rows.count && stream < work.head_row.streams;
    let numbers = vec2(bitcast<f32>(workspace[at]), bitcast<f32>(workspace[at + 1u]));
    return select(vec2(DEAD, 0.0), numbers, exists);
}
