// Where a score stands, which keys a query sees, and the derivative of the softcap. What the
// forward pass does to a score is its own text.
//
// modified, Place: score.wgsl; head_of: head_rows.wgsl

// Where a bias has the number of a key.
fn slot_of(key: u32) -> u32 {
    return key;
}

// 1 − tanh² of a score that is a multiple of the cap, without the digits that subtracting loses.
fn cap_slope(s: f32) -> f32 {
    let e = exp2(-2.0 * LOG2_E * abs(s));
    return 4.0 * e / ((1.0 + e) * (1.0 + e));
}

// A score after softcap, ALiBi, bias and the caller's mask. Rows past the last one repeat it.
fn modified_at(score: f32, work: Work, stream: u32, query: u32, key: u32) -> f32 {
    var at: Place;
    at.batch = work.batch;
    at.head = head_of(work.head_row, stream);
    at.row = min(query, work.rows.count - 1u);
    at.key = min(key, work.keys - 1u);
    at.query = i32(at.row) + work.offset;
    // A hook counts from the row where there is no causal mask.
    at.hook = i32(at.row) + select(0, work.offset, params.causal != 0u);
    return modified(score, work.head_row.slopes[stream], at);
}

// The last key before the window of a query at this place. Within the prefix all see each other.
fn before_window(prefix: i32, place: i32) -> i32 {
    return select(place - params.window, -1, place < prefix);
}

fn sees(work: Work, query: u32, key: u32) -> bool {
    let place = i32(query) + work.offset;
    let limit = min(i32(work.keys), max(place + params.ahead + 1, work.prefix));
    return i32(key) < limit && i32(key) > before_window(work.prefix, place);
}

// Whether any of the own rows may not see, or be seen by, some of the BLOCK_C walked rows from
// `first` on.
fn any_hidden(work: Work, first: u32) -> bool {
    let queries = select(work.own, first, KEYS_OWN);
    let keys = select(first, work.own, KEYS_OWN);
    let query_block = select(BLOCK_R, BLOCK_C, KEYS_OWN);
    let key_block = select(BLOCK_C, BLOCK_R, KEYS_OWN);
    let place = i32(queries) + work.offset; // of the first query
    let hidden = before_window(work.prefix, place + i32(query_block) - 1);
    return keys + key_block > work.keys || i32(keys + key_block) - 1 > place + params.ahead
        || i32(keys) <= hidden;
}
