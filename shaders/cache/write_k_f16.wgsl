@group(0) @binding(5) var<storage, read_write> k_cache: array<vec2<u32>>; // [planes, H_kv, rows, D] by strides, four f16 channels an entry

fn store_key(row: u32, source: Source, piece: u32) {
    let x = key_quad(source, piece);
    k_cache[row + piece] = vec2(pack2x16float(x.xy), pack2x16float(x.zw));
}

