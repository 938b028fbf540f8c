// [planes, H_kv, rows, D_v] by strides, four channels an entry
@group(0) @binding(6) var<storage, read_write> v_cache: array<vec4<f32>>;

fn store_value(row: u32, source: Source, piece: u32) {
    v_cache[row + piece] = value_quad(source, piece);
}

