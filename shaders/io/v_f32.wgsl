// [B, H_kv, S_k, D_v] by strides, four channels an entry
@group(0) @binding(4) var<storage, read> v: array<vec4<f32>>;

fn load_v(i: u32) -> vec4<f32> {
    return v[i];
}

