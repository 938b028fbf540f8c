// [planes, H_kv, rows, D] by strides, four f16 channels an entry
@group(0) @binding(5) var<storage, read_write> k_cache: array<vec2<u32>>;

fn store_key(row: u32, source: Source, piece: u32) {
    store_key_quad(row + piece, key_quad(source, piece));
}

fn store_key_quad(at: u32, x: vec4<f32>) {
    k_cache[at] = vec2(pack2x16float(x.xy), pack2x16float(x.zw));
}

