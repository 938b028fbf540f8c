@group(0) @binding(6) var<storage, read_write> v_cache: array<u32>; // [planes, H_kv, rows, words] by strides: eight channels a word, then two scales a word

// As f16 in the low half. Codes cannot say what is infinite or NaN: the scale of a block with such a
// number is NaN.
fn scale_of_value(source: Source, block: u32) -> u32 {
    var largest = 0.0;
    var strays = false;
    for (var i = 8u * block; i < 8u * block + 8u; i++) {
        let x = value_quad(source, i);
        strays = strays || any(not_finite(x));
        for (var j = 0u; j < 4u; j++) {
            largest = select(largest, x[j], abs(x[j]) > abs(largest));
        }
    }
    return select(pack2x16float(vec2(largest / -8.0, 0.0)), 0x7e00u, strays);
}

// 32 channels, which share a scale.
fn store_value(row: u32, source: Source, piece: u32) {
    let scales = scale_of_value(source, piece);
    // Codes fit the scale as it is stored.
    let scale = unpack2x16float(scales).x;
    let inverse = select(1.0 / scale, 0.0, scale == 0.0);
    for (var i = 0u; i < 4u; i++) {
        var word = 0u;
        for (var j = 0u; j < 2u; j++) {
            let x = value_quad(source, 8u * piece + 2u * i + j);
            let q = vec4<u32>(clamp(floor(x * inverse + 8.5), vec4(0.0), vec4(15.0)));
            word |= (q.x | (q.y << 4u) | (q.z << 8u) | (q.w << 12u)) << (16u * j);
        }
        v_cache[row + 4u * piece + i] = word;
    }
    // The second scale of a word is written by the invocation of the first.
    if (piece % 2u == 0u) {
        var pair = scales;
        if (piece + 1u < V_PIECES) {
            pair |= scale_of_value(source, piece + 1u) << 16u;
        }
        v_cache[row + VALUE_DIM / 8u + piece / 2u] = pair;
    }
}

