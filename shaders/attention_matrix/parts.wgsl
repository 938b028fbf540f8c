// A number as the sum of two of f16, a high part of 11 bits and a low one of as many: what X3 keeps
// of f32. Products of low parts with low parts are left out.
//
// Low parts may be too small for f16, which devices may flush. So those of keys and values are
// stored 2^11 times as large, and what they are multiplied with is shrunk by as much; queries are
// staged with their largest number near 2^13, weights are at their largest near 2^4.

const LOW: f32 = 2048.0;
const SHRUNK: f32 = 1.0 / LOW;

// The first 11 bits, rounded in whole numbers: compilers drop f32(f16(x)). 0 where f16 may have
// nothing left of it, and where it has no finite number for it, 2^-14 and 65520: the low part then
// has it all. An infinite key so meets one part of a query, the high one, and not two of either
// sign, which would give NaN.
fn high(x: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(x);
    let past = (bits & vec4(0x7fffffffu)) - vec4(0x38800000u) >= vec4(0x0efff000u);
    return bitcast<vec4<f32>>(select((bits + vec4(0x1000u)) & vec4(0xffffe000u), vec4(0u), past));
}

// Part n of a number of a key or value that has so many: all of it, or a high and a low one.
fn part_of(x: vec4<f32>, parts: u32, n: u32) -> vec4<f32> {
    if (parts == 1u) {
        return x;
    }
    return select(high(x), LOW * (x - high(x)), vec4(n == 1u));
}

// The same of a query: its parts, then its high one shrunk.
fn part_of_query(x: vec4<f32>, n: u32) -> vec4<f32> {
    if (!X3 || (Q_PARTS == 1u && n == 0u)) {
        return x;
    }
    if (Q_PARTS == 2u && n < 2u) {
        return select(high(x), x - high(x), vec4(n == 1u));
    }
    return SHRUNK * high(x);
}

// Leaves in shares, for each row, the power of two that brings the largest number of its query to
// between 2^13 and 2^14; gives what undoes it in the scores of the invocation's row.
fn prepare_query(tid: u32, work: Work, row: u32, part: u32) -> f32 {
    var top = vec4(0.0);
    for (var u = part; u < UNITS; u += PARTS) {
        let x = query_unit(work, row, u, 1.0);
        top = max(top, max(abs(x.a), abs(x.b)));
        if (QUERY_OWN) {
            let y = query_unit(second_query(work), row, u, 1.0);
            top = max(top, max(abs(y.a), abs(y.b)));
        }
    }
    shares[tid] = vec2(max(max(top.x, top.y), max(top.z, top.w)));
    workgroupBarrier(); // largest numbers are written
    let exponent = (bitcast<u32>(largest_share(tid)) >> 23u) & 0xffu;
    let factor = min(267u - exponent, 253u);
    workgroupBarrier(); // and read
    shares[tid] = vec2(bitcast<f32>(factor << 23u));
    workgroupBarrier(); // factors are written
    return bitcast<f32>((254u - factor) << 23u);
}
