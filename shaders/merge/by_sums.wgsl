@group(0) @binding(3) var<storage, read> lse_parts: array<vec2<f32>>; // [P, B, H, S] maxima, sums

// Maximum in base 2 and sum of row i of the parts; their outputs are not divided by the sum.
fn part_state(i: u32) -> vec2<f32> {
    return lse_parts[i];
}
