// [B, H_out, S_q, D_v] by strides, four f16 channels an entry
@group(0) @binding(17) var<storage, read> d_out: array<vec2<u32>>;

fn load_d_out(i: u32) -> vec4<f32> {
    let bits = d_out[i];
    return vec4(unpack2x16float(bits.x), unpack2x16float(bits.y));
}

