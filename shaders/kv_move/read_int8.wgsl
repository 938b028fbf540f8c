fn cached_quad(row: u32, quad: u32) -> vec4<f32> {
    return int8_quad(k_cache[row + 1u + quad], k_cache[row]);
}
