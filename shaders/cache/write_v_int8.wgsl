@group(0) @binding(6) var<storage, read_write> v_cache: array<u32>; // [planes, H_kv, rows, 1 + D_v / 4] by strides: a scale, then four channels a word

// The whole row, which shares a scale; codes cannot say what is infinite or NaN, so the scale of a row
// with such a number is NaN.
fn store_value(row: u32, source: Source, piece: u32) {
    var largest = 0.0;
    var strays = false;
    for (var i = 0u; i < VALUE_DIM / 4u; i++) {
        let x = abs(value_quad(source, i));
        largest = max(largest, max(max(x.x, x.y), max(x.z, x.w)));
        strays = strays || any(not_finite(x));
    }
    v_cache[row] = select(bitcast<u32>(largest / 127.0), 0x7fc00000u, strays);
    let inverse = select(127.0 / largest, 0.0, largest == 0.0);
    for (var i = 0u; i < VALUE_DIM / 4u; i++) {
        let q = vec4<u32>(vec4<i32>(round(value_quad(source, i) * inverse))) & vec4(0xffu);
        v_cache[row + 1u + i] = q.x | (q.y << 8u) | (q.z << 16u) | (q.w << 24u);
    }
}

