// [B, H_kv, S_k, D] by strides, four f16 channels an entry
@group(0) @binding(3) var<storage, read> k: array<vec2<u32>>;

fn load_k(i: u32) -> vec4<f32> {
    let bits = k[i];
    return vec4(unpack2x16float(bits.x), unpack2x16float(bits.y));
}

