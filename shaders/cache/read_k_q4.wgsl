// Rows of K as cache/q4.wgsl has them: [planes, H_kv, rows, words] by strides.
@group(0) @binding(3) var<storage, read> k: array<u32>;

fn key_quad(row: u32, quad: u32) -> vec4<f32> {
    return q4_quad(k[row + quad / 2u], k[row + HEAD_DIM / 8u + quad / 16u], quad);
}
