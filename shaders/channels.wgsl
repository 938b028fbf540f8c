// Four channels of a row of q or k at once, wherever they begin. The kernel says how a group of
// four is loaded: load_qk(is_k, row, quad).

const ALIGNED: bool = BLOCK_PAIRS % 4u == 0u && PAIRS % 2u == 0u; // no group of channels straddles

// Channels d .. d + 3 of a row; d need not be a multiple of four. Channels past the head are zero.
fn channels(is_k: bool, row: u32, d: u32) -> vec4<f32> {
    let i = d / 4u;
    let last = HEAD_DIM / 4u - 1u;
    if (ALIGNED || d % 4u == 0u) {
        return select(vec4(0.0), load_qk(is_k, row, min(i, last)), i <= last);
    }
    let lo = select(vec4(0.0), load_qk(is_k, row, min(i, last)), i <= last);
    let hi = select(vec4(0.0), load_qk(is_k, row, min(i + 1u, last)), i < last);
    switch (d % 4u) {
        case 1u: { return vec4(lo.yzw, hi.x); }
        case 2u: { return vec4(lo.zw, hi.xy); }
        default: { return vec4(lo.w, hi.xyz); }
    }
}
