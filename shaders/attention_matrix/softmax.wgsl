// The part of a row's softmax that one invocation has: COLS quads of keys, PARTS quads apart.
//
// modified_quad, masked: attention/score.wgsl

// A weight of this step would not fit f16, or one of its values.
var<workgroup> moved: atomic<u32>;

// A row is taken relative to 2^LIFT times its largest weight in the first step that it sees a key
// in, and later weights may reach 2^LAZY; f16 ends at 2^16. Only a maximum that climbs by LAZY +
// LIFT is looked for across the row, and rescales what was accumulated. LIFT is negative since a
// device may flush weights below 2^-14, which must not matter beside the largest.
const LAZY: f32 = 15.0;
const LIFT: f32 = -4.0;

fn key_of(first: u32, part: u32, i: u32) -> u32 {
    return first + 4u * (i * PARTS + part);
}

const MODIFIED: bool = SOFTCAP || ALIBI || BIAS || HOOKS;

// Scores of this invocation, which lie in single_tile from s_at on, after softcap, ALiBi, bias and
// hooks, and there again: a quad at a time, since many at once take more registers than there are.
fn modify(work: Work, stream: u32, row: u32, s_at: u32, scale: f32, part: u32, first: u32) {
    for (var i = 0u; i < COLS + params.zero; i++) {
        let at = s_at + i * PARTS + part;
        let x = scale * single(at);
        put_single(at, modified_quad(x, work, stream, row, key_of(first, part, i)));
    }
}

// The same in base 2, where they were not modified times scale; hidden keys masked.
fn scores_of(
    work: Work,
    row: u32,
    s_at: u32,
    scale: f32,
    part: u32,
    first: u32,
    hidden: bool,
) -> array<vec4<f32>, COLS> {
    var x: array<vec4<f32>, COLS>;
    for (var i = 0u; i < COLS; i++) {
        x[i] = select(scale, 1.0, MODIFIED) * single(s_at + i * PARTS + part);
    }
    if (hidden) {
        for (var i = 0u; i < COLS; i++) {
            x[i] = masked(x[i], work, row, key_of(first, part, i));
        }
    }
    return x;
}

fn top_of(x: array<vec4<f32>, COLS>) -> f32 {
    var top = x[0];
    for (var i = 1u; i < COLS; i++) {
        top = max(top, x[i]);
    }
    return max(max(top.x, top.y), max(top.z, top.w));
}

// Weights relative to m, into half_tile from p_at on; their sums, as products have them and not
// rounded.
fn weigh(x: array<vec4<f32>, COLS>, m: f32, p_at: u32, part: u32) -> vec2<f32> {
    // A row without a visible key yet keeps weights of 0: exp2(MASKED - 0).
    let base = select(m, 0.0, m == MASKED);
    var rounded = vec4(0.0);
    var sum = vec4(0.0);
    for (var i = 0u; i < COLS; i++) {
        let weight = exp2(x[i] - vec4(base));
        // Rounded to the digits of f16 in whole numbers: numerator and denominator then err alike,
        // whatever way a device rounds. Compilers drop f32(f16(p)), and would sum what is not used.
        let bits = (bitcast<vec4<u32>>(weight) + vec4(0x1000u)) & vec4(0xffffe000u);
        let p = bitcast<vec4<f32>>(bits);
        rounded += p;
        sum += weight;
        let at = p_at + i * PARTS + part;
        put_half(at, p);
        if (X3) {
            put_half(at + P_QUADS, weight - p);
        }
        if (P_SETS > P_PARTS) {
            put_half(at + P_PARTS * P_QUADS, SHRUNK * p);
        }
    }
    return vec2(
        (rounded.x + rounded.y) + (rounded.z + rounded.w),
        (sum.x + sum.y) + (sum.z + sum.w),
    );
}

// The largest of what the invocations of a row left in shares, and the sums of it.
fn largest_share(tid: u32) -> f32 {
    let at = tid / PARTS * PARTS;
    var top = shares[at].x;
    for (var i = 1u; i < PARTS; i++) {
        top = max(top, shares[at + i].x);
    }
    return top;
}

fn sum_of_shares(tid: u32) -> vec2<f32> {
    let at = tid / PARTS * PARTS;
    var sum = shares[at];
    for (var i = 1u; i < PARTS; i++) {
        sum += shares[at + i];
    }
    return sum;
}
