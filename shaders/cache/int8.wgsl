// Rows of int8, of K and of V: a scale, an f32, then four channels a word.

fn int8_quad(word: u32, scale: u32) -> vec4<f32> {
    // The sign bit of each byte to the top, and down again.
    let codes = (vec4(bitcast<i32>(word)) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u);
    return vec4<f32>(codes) * bitcast<f32>(scale);
}

// What decides on the scale of a row, as far as it has been looked at. Codes cannot say what is
// infinite or NaN, so the scale of a row with such a number is NaN.
struct Int8Row {
    largest: f32,
    non_finite: bool,
}

fn int8_row(row: Int8Row, x: vec4<f32>) -> Int8Row {
    let size = abs(x);
    let largest = max(max(size.x, size.y), max(size.z, size.w));
    return Int8Row(max(row.largest, largest), row.non_finite || any(not_finite(x)));
}

fn int8_scale(row: Int8Row) -> u32 {
    return select(bitcast<u32>(row.largest / 127.0), 0x7fc00000u, row.non_finite);
}

fn int8_inverse(row: Int8Row) -> f32 {
    return select(127.0 / row.largest, 0.0, row.largest == 0.0);
}

fn int8_word(x: vec4<f32>, inverse: f32) -> u32 {
    let codes = vec4<u32>(vec4<i32>(round(x * inverse))) & vec4(0xffu);
    return codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u);
}
