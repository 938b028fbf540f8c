fn cached_quad(row: u32, quad: u32) -> vec4<f32> {
    let word = vec4(bitcast<i32>(k_cache[row + 1u + quad]));
    // The sign bit of each byte to the top, and down again.
    return vec4<f32>((word << vec4(24u, 16u, 8u, 0u)) >> vec4(24u)) * bitcast<f32>(k_cache[row]);
}

