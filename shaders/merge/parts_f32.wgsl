// [P, B H, S, D_v] by strides, four channels an entry
@group(0) @binding(2) var<storage, read> parts: array<vec4<f32>>;

fn load_part(i: u32) -> vec4<f32> {
    return parts[i];
}

