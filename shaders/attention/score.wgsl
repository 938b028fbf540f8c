// Scores of a tile: what is done to them, and which are masked.
//
// modified, Place: score.wgsl; head_of: head_rows.wgsl

// Keys of the quad whose first key is this one.
fn tile_keys(key: u32) -> vec4<u32> {
    return vec4(key) + KEY_STEP * vec4(0u, 1u, 2u, 3u);
}

// Where a score of the tile stands. Rows and keys past the last one repeat it; they do not count.
fn place_of_score(work: Work, stream: u32, row: u32, key: u32) -> Place {
    var at: Place;
    at.batch = work.batch;
    at.head = head_of(work.head_row, stream);
    at.row = min(row, work.rows.count - 1u);
    at.key = min(key, work.keys - 1u);
    at.query = i32(at.row) + work.offset;
    // Hooks count from the row where there is no causal mask.
    at.hook = i32(at.row) + select(0, work.offset, params.causal != 0u);
    return at;
}

// Scores of a row of a stream with the keys of a quad, after softcap, ALiBi, bias and hooks.
fn modified_quad(score: vec4<f32>, work: Work, stream: u32, row: u32, key: u32) -> vec4<f32> {
    let keys = tile_keys(key);
    let slope = work.head_row.slopes[stream];
    return vec4(
        modified(score.x, slope, place_of_score(work, stream, row, keys.x)),
        modified(score.y, slope, place_of_score(work, stream, row, keys.y)),
        modified(score.z, slope, place_of_score(work, stream, row, keys.z)),
        modified(score.w, slope, place_of_score(work, stream, row, keys.w)),
    );
}

// Whether any row of the tile may not see some of the BLOCK_K keys from this one on: past the last
// key, the diagonal or the window's edges, or gone.
fn any_hidden(work: Work, first: u32) -> bool {
    let place = i32(work.tile * BLOCK_Q) + work.offset; // of the first row
    let hidden = hidden_up_to(work.keys, before_window(work.prefix, place + i32(BLOCK_Q) - 1));
    return first + BLOCK_K > work.keys || i32(first + BLOCK_K) - 1 > place + params.ahead
        || i32(first) <= hidden;
}

// Scores of a row with the keys of a quad, those that it does not see masked.
fn masked(score: vec4<f32>, work: Work, row: u32, key: u32) -> vec4<f32> {
    let place = i32(row) + work.offset;
    let limit = min(i32(work.keys), max(place + params.ahead + 1, work.prefix));
    let hidden = hidden_up_to(work.keys, before_window(work.prefix, place));
    // A key before the first wraps to far past the last: one comparison for both.
    let first = bitcast<u32>(hidden + 1);
    let seen = select(0u, bitcast<u32>(limit) - first, limit > hidden);
    return select(vec4(MASKED), score, tile_keys(key - first) < vec4(seen));
}
