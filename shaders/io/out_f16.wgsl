// [B, H_out, S_q, D_v] by strides, four f16 channels an entry
@group(0) @binding(5) var<storage, read_write> out: array<vec2<u32>>;

fn store_out(i: u32, x: vec4<f32>) {
    out[i] = vec2(pack2x16float(x.xy), pack2x16float(x.zw));
}

