// What may be done to a score between Q·Kᵀ and the masks.

// Keys of the quad whose first key is this one.
fn tile_keys(key: u32) -> vec4<u32> {
    return vec4(key) + vec4(0u, BLOCK_KQ, 2u * BLOCK_KQ, 3u * BLOCK_KQ);
}

// The built-in may lose all digits near 0, and overflow far from it.
fn tanh4(x: vec4<f32>) -> vec4<f32> {
    let t = exp2(-2.0 * LOG2_E * abs(x));
    let far = sign(x) * (1.0 - t) / (1.0 + t);
    let x2 = x * x;
    let near = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0))));
    return select(far, near, abs(x) < vec4(0.2));
}

// The caller's functions see scores in base e. What a bias hides stays hidden.
fn hooked(score: f32, batch: u32, head: u32, query: i32, key: i32) -> f32 {
    let modified = in_base_2(score_mod(in_base_e(score), batch, head, query, key));
    return select(modified, MASKED, score == MASKED || !mask_mod(batch, head, query, key));
}

// Scores of a row of a stream with the keys of a quad, after softcap, ALiBi, bias and hooks.
fn modified(score: vec4<f32>, work: Work, stream: u32, row: u32, key: u32) -> vec4<f32> {
    var s = score;
    if (SOFTCAP) {
        s = params.softcap * tanh4(s / params.softcap);
    }
    if (ALIBI) {
        let distance = vec4<i32>(tile_keys(key)) - (i32(row) + work.offset);
        s += work.program.slopes[stream] * vec4<f32>(distance);
    }
    if (BIAS) {
        let head = head_of(work.program, stream);
        let query = min(row, work.rows.count - 1u);
        let keys4 = min(tile_keys(key), vec4(work.keys - 1u));
        let bias = vec4(
            bias_of(work.batch, head, query, slot_of(keys4.x)),
            bias_of(work.batch, head, query, slot_of(keys4.y)),
            bias_of(work.batch, head, query, slot_of(keys4.z)),
            bias_of(work.batch, head, query, slot_of(keys4.w)),
        );
        // Whatever the score of a hidden key is.
        s = select(s + bias, vec4(MASKED), bias <= vec4(MASKED));
    }
    if (HOOKS) {
        let head = head_of(work.program, stream);
        // A query's place among the keys; without a causal mask, its row.
        let query = i32(row) + select(0, work.offset, params.causal != 0u);
        let keys4 = vec4<i32>(tile_keys(key));
        s = vec4(
            hooked(s.x, work.batch, head, query, keys4.x),
            hooked(s.y, work.batch, head, query, keys4.y),
            hooked(s.z, work.batch, head, query, keys4.z),
            hooked(s.w, work.batch, head, query, keys4.w),
        );
    }
    return s;
}

// Whether any row of the tile may not see some of the BLOCK_K keys from this one on: past the last
// key, the diagonal or the window's edge, or gone.
fn any_hidden(work: Work, first: u32) -> bool {
    let diagonal = i32(work.tile * BLOCK_Q) + work.offset;
    let hidden = hidden_up_to(work.keys, diagonal + i32(BLOCK_Q) - 1 - params.window);
    return first + BLOCK_K > work.keys || i32(first + BLOCK_K) - 1 > diagonal || i32(first) <= hidden;
}

// Scores of a row with the keys of a quad, those that it does not see masked.
fn masked(score: vec4<f32>, work: Work, row: u32, key: u32) -> vec4<f32> {
    let place = i32(row) + work.offset;
    let limit = min(i32(work.keys), max(place + 1, work.prefix));
    let keys4 = vec4<i32>(tile_keys(key));
    let hidden = hidden_up_to(work.keys, place - params.window);
    let seen = (keys4 < vec4(limit)) & (keys4 > vec4(hidden));
    return select(vec4(MASKED), score, seen);
}
