@group(0) @binding(3) var<storage, read> lse_parts: array<f32>; // [P, B, H, S], natural log

// Maximum in base 2 and sum of row i of the parts; their outputs are divided by the sum.
// `!(x <= MASKED)` and not `x > MASKED`: a log-sum-exp that is NaN must count.
fn part_state(i: u32) -> vec2<f32> {
    let x = in_base_2(lse_parts[i]);
    return vec2(x, select(0.0, 1.0, !(x <= MASKED)));
}
