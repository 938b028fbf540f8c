// Keys were rotated before the call.
fn key_quad(source: Source, quad: u32) -> vec4<f32> {
    return load_k(source.k + quad);
}

