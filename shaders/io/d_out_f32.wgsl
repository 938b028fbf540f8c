// [B, H_out, S_q, D_v] by strides, four channels an entry
@group(0) @binding(17) var<storage, read> d_out: array<vec4<f32>>;

fn load_d_out(i: u32) -> vec4<f32> {
    return d_out[i];
}

