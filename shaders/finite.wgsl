// Which numbers are infinite or NaN, by their bits: a compiler may assume that there are none, and
// fold comparisons away.

fn not_finite(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4(0x7f800000u)) == vec4(0x7f800000u);
}

// The logarithm of a sum of weights from 0 to 1. A NaN among them, which exp2 need not keep, has made the sum
// NaN or infinite: the logarithm is NaN then.
fn log2_of_sum(sum: f32, minus_infinity: f32) -> f32 {
    return select(log2(sum), sum + minus_infinity, (bitcast<u32>(sum) & 0x7f800000u) == 0x7f800000u);
}
