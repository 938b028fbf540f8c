// Rows of V as cache/int8.wgsl has them: [planes, H_kv, rows, 1 + D_v / 4] by strides.
@group(0) @binding(6) var<storage, read_write> v_cache: array<u32>;

// The whole row, which shares a scale.
fn store_value(row: u32, source: Source, piece: u32) {
    var all = Int8Row(0.0, false);
    for (var i = 0u; i < VALUE_DIM / 4u; i++) {
        all = int8_row(all, value_quad(source, i));
    }
    v_cache[row] = int8_scale(all);
    let inverse = int8_inverse(all);
    for (var i = 0u; i < VALUE_DIM / 4u; i++) {
        v_cache[row + 1u + i] = int8_word(value_quad(source, i), inverse);
    }
}
