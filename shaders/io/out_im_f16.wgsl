// As out: the second stream of every query head
@group(0) @binding(6) var<storage, read_write> out_im: array<vec2<u32>>;

fn store_out_im(i: u32, x: vec4<f32>) {
    out_im[i] = vec2(pack2x16float(x.xy), pack2x16float(x.zw));
}

