// [B, H, S_q, D] by strides, four channels an entry
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;

fn load_q(i: u32) -> vec4<f32> {
    return q[i];
}

