fn value_quad(row: u32, quad: u32) -> vec4<f32> {
    return load_v(row + quad);
}

