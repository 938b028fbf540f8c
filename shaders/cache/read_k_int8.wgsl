// Rows of K as cache/int8.wgsl has them: [planes, H_kv, rows, 1 + D / 4] by strides.
@group(0) @binding(3) var<storage, read> k: array<u32>;

fn key_quad(row: u32, quad: u32) -> vec4<f32> {
    return int8_quad(k[row + 1u + quad], k[row]);
}
