// [planes, H_kv, rows, D_v] by strides, four f16 channels an entry
@group(0) @binding(6) var<storage, read_write> v_cache: array<vec2<u32>>;

fn store_value(row: u32, source: Source, piece: u32) {
    let x = value_quad(source, piece);
    v_cache[row + piece] = vec2(pack2x16float(x.xy), pack2x16float(x.zw));
}

