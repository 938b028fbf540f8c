// Rows of V as cache/q4.wgsl has them: [planes, H_kv, rows, words] by strides.
@group(0) @binding(4) var<storage, read> v: array<u32>;

fn value_quad(row: u32, quad: u32) -> vec4<f32> {
    return q4_quad(v[row + quad / 2u], v[row + VALUE_DIM / 8u + quad / 16u], quad);
}
