// What happens to single scores.

// The built-in may lose all digits near 0, and overflow far from it.
fn tanh_of(x: f32) -> f32 {
    let t = exp2(-2.0 * LOG2_E * abs(x));
    let far = sign(x) * (1.0 - t) / (1.0 + t);
    let x2 = x * x;
    let near = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0))));
    return select(far, near, abs(x) < 0.2);
}

// The caller's functions see scores in base e. What a bias hides stays hidden.
fn hooked(score: f32, batch: u32, head: u32, query: i32, key: i32) -> f32 {
    let modified = in_base_2(score_mod(in_base_e(score), batch, head, query, key));
    return select(modified, MASKED, score == MASKED || !mask_mod(batch, head, query, key));
}

// q · k + sum
fn dot_add(q: vec4<f32>, k: vec4<f32>, sum: f32) -> f32 {
    return fma(q.w, k.w, fma(q.z, k.z, fma(q.y, k.y, fma(q.x, k.x, sum))));
}
