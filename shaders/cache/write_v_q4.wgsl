// Rows of V as cache/q4.wgsl has them: [planes, H_kv, rows, words] by strides.
@group(0) @binding(6) var<storage, read_write> v_cache: array<u32>;

fn scale_of_value(source: Source, block: u32) -> u32 {
    var all = Q4Block(0.0, false);
    for (var i = 8u * block; i < 8u * block + 8u; i++) {
        all = q4_block(all, value_quad(source, i));
    }
    return q4_scale(all);
}

// 32 channels, which share a scale.
fn store_value(row: u32, source: Source, piece: u32) {
    let scale = scale_of_value(source, piece);
    let inverse = q4_inverse(scale);
    for (var i = 0u; i < 4u; i++) {
        let quad = 8u * piece + 2u * i;
        v_cache[row + 4u * piece + i] =
            q4_word(value_quad(source, quad), value_quad(source, quad + 1u), inverse);
    }
    // The second scale of a word is written by the invocation of the first.
    if (piece % 2u == 0u) {
        var pair = scale;
        if (piece + 1u < V_PIECES) {
            pair |= scale_of_value(source, piece + 1u) << 16u;
        }
        v_cache[row + VALUE_DIM / 8u + piece / 2u] = pair;
    }
}
