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

// The caller's functions see scores in base e.
fn hooked(score: f32, batch: u32, head: u32, query: i32, key: i32) -> f32 {
    let modified = LOG2_E * score_mod(score * LN_2, batch, head, query, key);
    return select(MASKED, modified, mask_mod(batch, head, query, key));
}

