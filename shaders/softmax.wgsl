// Softmax in base 2, as all kernels have it: scores are kept in units of log 2, so that exp2
// serves.

const LN_2: f32 = 0.69314718055994530942;
const LOG2_E: f32 = 1.44269504088896340736;
// The score of a key that is hidden. Finite, since infinities need not survive in WGSL, and below
// whatever in_base_2 makes of a finite number.
const MASKED: f32 = -3.4e38;

// Numbers past ±FAR, 2^127, go from base e to base 2 at half their slope, so that none overflows
// and all keep their order. Out there two neighbours are further apart than a softmax can tell.
const FAR: f32 = 1.7014118e38;
const FAR_STEP: f32 = (LOG2_E - 0.5) * FAR;
const FAR_MOST: f32 = 1.7014117e38; // half the largest number

fn in_base_2(x: f32) -> f32 {
    return select(LOG2_E * x, 0.5 * x + FAR_STEP * sign(x), abs(x) > FAR);
}

fn in_base_e(x: f32) -> f32 {
    let far = 2.0 * clamp(x - FAR_STEP * sign(x), -FAR_MOST, FAR_MOST);
    return select(LN_2 * x, far, abs(x) > LOG2_E * FAR);
}

// The logarithm of a sum of weights from 0 to 1. A NaN among them, which exp2 need not keep, has
// made the sum NaN or infinite: the logarithm is NaN then.
fn log2_of_sum(sum: f32, minus_infinity: f32) -> f32 {
    let finite = (bitcast<u32>(sum) & 0x7f800000u) != 0x7f800000u;
    return select(sum + minus_infinity, log2(sum), finite);
}

// The natural log-sum-exp of a row with maximum m and sum l. A sum of 0 has no key.
fn log_sum_exp(m: f32, l: f32, minus_infinity: f32) -> f32 {
    return select(in_base_e(m + log2_of_sum(l, minus_infinity)), minus_infinity, l == 0.0);
}

// A row's maximum and sum once its sink, a key without a value, has joined them, and the factor
// that takes its output from one maximum to the other.
struct Sum {
    m: f32,
    l: f32,
    scale: f32,
}

fn with_sink(m: f32, l: f32, sink: f32) -> Sum {
    let top = max(m, sink);
    let base = select(top, 0.0, top == MASKED);
    let scale = exp2(m - base);
    return Sum(top, l * scale + exp2(sink - base), scale);
}
