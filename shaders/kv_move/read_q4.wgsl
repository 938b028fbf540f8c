fn cached_quad(row: u32, quad: u32) -> vec4<f32> {
    let word = vec4(k_cache[row + quad / 2u] >> (16u * (quad % 2u)));
    let codes = (word >> vec4(0u, 4u, 8u, 12u)) & vec4(0xfu);
    let scales = unpack2x16float(k_cache[row + HEAD_DIM / 8u + quad / 16u]);
    return (vec4<f32>(codes) - 8.0) * select(scales.x, scales.y, quad / 8u % 2u == 1u);
}

