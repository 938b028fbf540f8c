fn cached_quad(row: u32, quad: u32) -> vec4<f32> {
    return q4_quad(k_cache[row + quad / 2u], k_cache[row + HEAD_DIM / 8u + quad / 16u], quad);
}
