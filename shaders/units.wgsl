// Rows of q and k in units: groups of four pairs of the rotated part, then of eight channels of the
// tail.
//
// channels: channels.wgsl; load_qk: the kernel's

const UNITS: u32 = PAIR_QUADS + TAIL_QUADS;

// Four pairs of one row: first and second members.
struct Pairs {
    a: vec4<f32>,
    b: vec4<f32>,
}

// Unit u of a row. Pairs past the last one pad it with zeros; of the tail, the first four channels
// are a and the next four b.
fn load_unit(is_k: bool, row: u32, u: u32) -> Pairs {
    if (TAIL_QUADS > 0u && u >= PAIR_QUADS) {
        let d = 2u * PAIRS + 8u * (u - PAIR_QUADS);
        return Pairs(channels(is_k, row, d), channels(is_k, row, d + 4u));
    }
    var x: Pairs;
    if ((is_k && K_INTERLEAVED) || (!is_k && Q_INTERLEAVED)) {
        let lo = load_qk(is_k, row, 2u * u);
        // The last unit of an odd number of groups has no second group.
        let hi = load_qk(is_k, row, min(2u * u + 1u, HEAD_DIM / 4u - 1u));
        x = Pairs(vec4(lo.xz, hi.xz), vec4(lo.yw, hi.yw));
    } else {
        let j = 4u * u;
        var a = j;
        if (BLOCK_PAIRS < PAIRS) {
            a += j / BLOCK_PAIRS * BLOCK_PAIRS;
        }
        x = Pairs(channels(is_k, row, a), channels(is_k, row, a + BLOCK_PAIRS));
    }
    if (PAIRS % 4u == 0u) {
        return x;
    }
    let exists = vec4(4u * u) + vec4(0u, 1u, 2u, 3u) < vec4(PAIRS);
    return Pairs(select(vec4(0.0), x.a, exists), select(vec4(0.0), x.b, exists));
}

