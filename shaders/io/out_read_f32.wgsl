// [B, H_out, S_q, D_v] by strides, four channels an entry
@group(0) @binding(5) var<storage, read> out: array<vec4<f32>>;

fn load_out(i: u32) -> vec4<f32> {
    return out[i];
}

