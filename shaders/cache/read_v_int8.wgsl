// Rows of V as cache/int8.wgsl has them: [planes, H_kv, rows, 1 + D_v / 4] by strides.
@group(0) @binding(4) var<storage, read> v: array<u32>;

fn value_quad(row: u32, quad: u32) -> vec4<f32> {
    return int8_quad(v[row + 1u + quad], v[row]);
}
