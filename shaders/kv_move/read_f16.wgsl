fn cached_quad(row: u32, quad: u32) -> vec4<f32> {
    let x = k_cache[row + quad];
    return vec4(unpack2x16float(x.x), unpack2x16float(x.y));
}

