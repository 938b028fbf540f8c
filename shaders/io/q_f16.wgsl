// [B, H, S_q, D] by strides, four f16 channels an entry
@group(0) @binding(2) var<storage, read> q: array<vec2<u32>>;

fn load_q(i: u32) -> vec4<f32> {
    let bits = q[i];
    return vec4(unpack2x16float(bits.x), unpack2x16float(bits.y));
}

