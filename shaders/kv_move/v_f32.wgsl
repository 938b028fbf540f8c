// [planes, H_kv, rows, D_v] by strides, four channels an entry
@group(0) @binding(6) var<storage, read_write> v_cache: array<vec4<f32>>;

