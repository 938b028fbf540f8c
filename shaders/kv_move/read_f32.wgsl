fn cached_quad(row: u32, quad: u32) -> vec4<f32> {
    return k_cache[row + quad];
}

