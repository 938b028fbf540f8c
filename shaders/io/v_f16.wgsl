// [B, H_kv, S_k, D_v] by strides, four f16 channels an entry
@group(0) @binding(4) var<storage, read> v: array<vec2<u32>>;

fn load_v(i: u32) -> vec4<f32> {
    let bits = v[i];
    return vec4(unpack2x16float(bits.x), unpack2x16float(bits.y));
}

