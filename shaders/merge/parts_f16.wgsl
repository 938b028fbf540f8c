// [P, B H, S, D_v] by strides, four f16 channels an entry
@group(0) @binding(2) var<storage, read> parts: array<vec2<u32>>;

fn load_part(i: u32) -> vec4<f32> {
    let bits = parts[i];
    return vec4(unpack2x16float(bits.x), unpack2x16float(bits.y));
}

