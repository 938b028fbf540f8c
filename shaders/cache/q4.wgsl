// Rows of four bits, of K and of V: eight channels a word, then a scale in f16 for each block of 32
// channels, two scales a word. The largest number of a block, of either sign, has the code −8.

// Channels 4 quad .. 4 quad + 3 of a row, of their word and the word of their scale.
fn q4_quad(word: u32, scales: u32, quad: u32) -> vec4<f32> {
    let codes = (vec4(word >> (16u * (quad % 2u))) >> vec4(0u, 4u, 8u, 12u)) & vec4(0xfu);
    let pair = unpack2x16float(scales);
    return (vec4<f32>(codes) - 8.0) * select(pair.x, pair.y, quad / 8u % 2u == 1u);
}

// What decides on the scale of a block, as far as it has been looked at. Codes cannot say what is
// infinite or NaN, so the scale of a block with such a number is NaN.
struct Q4Block {
    largest: f32, // with its sign
    non_finite: bool,
}

fn q4_block(block: Q4Block, x: vec4<f32>) -> Q4Block {
    var largest = block.largest;
    for (var j = 0u; j < 4u; j++) {
        largest = select(largest, x[j], abs(x[j]) > abs(largest));
    }
    return Q4Block(largest, block.non_finite || any(not_finite(x)));
}

// As f16 in the low half.
fn q4_scale(block: Q4Block) -> u32 {
    return select(pack2x16float(vec2(block.largest / -8.0, 0.0)), 0x7e00u, block.non_finite);
}

// Codes fit the scale as it is stored.
fn q4_inverse(scale: u32) -> f32 {
    let x = unpack2x16float(scale).x;
    return select(1.0 / x, 0.0, x == 0.0);
}

// Codes of eight channels.
fn q4_word(x: vec4<f32>, y: vec4<f32>, inverse: f32) -> u32 {
    return q4_codes(x, inverse) | (q4_codes(y, inverse) << 16u);
}

fn q4_codes(x: vec4<f32>, inverse: f32) -> u32 {
    let codes = vec4<u32>(clamp(floor(x * inverse + 8.5), vec4(0.0), vec4(15.0)));
    return codes.x | (codes.y << 4u) | (codes.z << 8u) | (codes.w << 12u);
}
