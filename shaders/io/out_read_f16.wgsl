// [B, H_out, S_q, D_v] by strides, four f16 channels an entry
@group(0) @binding(5) var<storage, read> out: array<vec2<u32>>;

fn load_out(i: u32) -> vec4<f32> {
    let bits = out[i];
    return vec4(unpack2x16float(bits.x), unpack2x16float(bits.y));
}

