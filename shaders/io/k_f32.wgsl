// [B, H_kv, S_k, D] by strides, four channels an entry
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>;

fn load_k(i: u32) -> vec4<f32> {
    return k[i];
}

