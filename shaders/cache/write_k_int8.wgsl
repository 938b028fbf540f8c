// Rows of K as cache/int8.wgsl has them: [planes, H_kv, rows, 1 + D / 4] by strides.
@group(0) @binding(5) var<storage, read_write> k_cache: array<u32>;

// The whole row, which shares a scale.
fn store_key(row: u32, source: Source, piece: u32) {
    var all = Int8Row(0.0, false);
    for (var i = 0u; i < HEAD_DIM / 4u; i++) {
        all = int8_row(all, key_quad(source, i));
    }
    k_cache[row] = int8_scale(all);
    let inverse = int8_inverse(all);
    for (var i = 0u; i < HEAD_DIM / 4u; i++) {
        k_cache[row + 1u + i] = int8_word(key_quad(source, i), inverse);
    }
}
