// Which numbers are infinite or NaN, by their bits: a compiler may assume that there are none, and
// fold comparisons away.

fn not_finite(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4(0x7f800000u)) == vec4(0x7f800000u);
}
