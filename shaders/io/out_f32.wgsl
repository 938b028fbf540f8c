// [B, H_out, S_q, D_v] by strides, four channels an entry
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

fn store_out(i: u32, x: vec4<f32>) {
    out[i] = x;
}

