// What the forward pass did to a score between Q·Kᵀ and the softmax, and the derivative of it.

fn exp_of(x: f32) -> f32 {
    return exp2(-2.0 * LOG2_E * abs(x));
}

// c tanh(s / c). The built-in may lose all digits near 0, and overflow far from it.
fn capped(s: f32) -> f32 {
    let x = s / params.softcap;
    let e = exp_of(x);
    let far = sign(x) * (1.0 - e) / (1.0 + e);
    let x2 = x * x;
    let near = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0))));
    return params.softcap * select(far, near, abs(x) < 0.2);
}

// 1 − tanh²(s / c), without the digits that the subtraction would lose.
fn cap_slope(s: f32) -> f32 {
    let e = exp_of(s / params.softcap);
    return 4.0 * e / ((1.0 + e) * (1.0 + e));
}

// A score after softcap, ALiBi, bias and the caller's mask.
fn modified(raw: f32, work: Work, stream: u32, query: u32, key: u32) -> f32 {
    var s = raw;
    if (SOFTCAP) {
        s = capped(s);
    }
    if (ALIBI) {
        s += work.head_row.slopes[stream] * f32(i32(key) - (i32(query) + work.offset));
    }
    let head = head_of(work.head_row, stream);
    if (BIAS) {
        let row = min(query, work.rows.count - 1u);
        let bias = bias_of(work.batch, head, row, min(key, work.keys - 1u));
        s = select(s + bias, MASKED, bias <= MASKED);
    }
    if (HOOKS) {
        // A query's place among the keys; without a causal mask, its row.
        let place = i32(query) + select(0, work.offset, params.causal != 0u);
        s = select(MASKED, s, mask_mod(work.batch, head, place, i32(key)));
    }
    return s;
}

fn sees(work: Work, query: u32, key: u32) -> bool {
    let place = i32(query) + work.offset;
    let limit = min(i32(work.keys), max(place + 1, work.prefix));
    return i32(key) < limit && i32(key) > place - params.window;
}

// Whether any of the own rows may not see, or be seen by, some of the BLOCK_C walked rows from
// `first` on.
fn any_hidden(work: Work, first: u32) -> bool {
    let queries = select(work.own, first, KEYS_OWN);
    let keys = select(first, work.own, KEYS_OWN);
    let query_block = select(BLOCK_R, BLOCK_C, KEYS_OWN);
    let key_block = select(BLOCK_C, BLOCK_R, KEYS_OWN);
    let diagonal = i32(queries) + work.offset;
    let lowest = diagonal + i32(query_block) - params.window;
    return keys + key_block > work.keys || i32(keys + key_block) - 1 > diagonal || i32(keys) < lowest;
}
