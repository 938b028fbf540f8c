// Rows of q, k and v on their way into workgroup memory as f16, as attention_matrix/sizes.wgsl lays
// them out.
//
// query_unit: attention/load.wgsl; key_half, value: attention/load_keys.wgsl; key_row, value_row:
// attention/places_*.wgsl; not_finite: finite.wgsl

// The unit that lies at a quad of either half of a row; UNITS where there is padding. Pairs are
// padded to whole fragments, and so is the tail behind them.
fn unit_at(quad: u32) -> u32 {
    const TAIL_AT = PAIR_FRAGMENTS * M4;
    if (quad < TAIL_AT) {
        return select(UNITS, quad, quad < PAIR_QUADS);
    }
    return min(PAIR_QUADS + quad - TAIL_AT, UNITS);
}

fn stage_q(tid: u32, work: Work, first: u32) {
    for (var i = tid; i < BLOCK_Q * HALF_QUADS; i += THREADS) {
        let row = i / HALF_QUADS;
        let quad = i % HALF_QUADS;
        let u = unit_at(quad);
        var x = Pairs(vec4(0.0), vec4(0.0));
        if (u < UNITS) {
            x = query_unit(work, first + row, u, 1.0);
        }
        put_half(row * K_ROW + quad, x.a);
        put_half(row * K_ROW + HALF_QUADS + quad, x.b);
    }
}

// Neighbouring invocations load neighbouring channels of a key.
fn stage_k(tid: u32, work: Work, first: u32) {
    for (var i = tid; i < 2u * HALF_QUADS * BLOCK_K; i += THREADS) {
        let row = i / (2u * HALF_QUADS);
        let n = i % (2u * HALF_QUADS);
        let quad = select(n % HALF_QUADS, n / 2u, K_INTERLEAVED);
        let half = select(n / HALF_QUADS, n % 2u, K_INTERLEAVED);
        let key = first + row;
        let u = unit_at(quad);
        let at = row * K_ROW + quad;
        if (u == UNITS) {
            put_half(at + half * HALF_QUADS, vec4(0.0));
            continue;
        }
        let x = key_half(work, key, key_row(work, key), u, half);
        if (interleaved(true, u)) {
            let y = vec4<f16>(x);
            half_tile[at][2u * half] = y.x;
            half_tile[at + HALF_QUADS][2u * half] = y.y;
            half_tile[at][2u * half + 1u] = y.z;
            half_tile[at + HALF_QUADS][2u * half + 1u] = y.w;
        } else {
            put_half(at + half * HALF_QUADS, x);
        }
    }
}

// Whether f16 has no finite number for a value. The weight 0 of a hidden key would not silence it,
// as 0 * NaN is NaN: zeros are staged in its place, and the end of the kernel gives it to the rows
// that see its key.
var<workgroup> non_finite: atomic<u32>;

fn too_large(x: vec4<f32>) -> vec4<bool> {
    return not_finite(x) | (abs(x) >= vec4(65520.0));
}

fn staged_value(work: Work, key: u32, column: u32) -> vec4<f32> {
    let x = value(work, key, value_row(work, key), column);
    let bad = too_large(x);
    if (any(bad)) {
        atomicStore(&non_finite, 1u);
    }
    return select(x, vec4(0.0), bad);
}

fn stage_v(tid: u32, work: Work, first: u32) {
    if (VALUE_TURNED) {
        // Neighbouring invocations take neighbouring groups of four keys of a column.
        for (var i = tid; i < K4 * DV4; i += THREADS) {
            let key = first + 4u * (i % K4);
            let column = i / K4;
            let x0 = staged_value(work, key, column);
            let x1 = staged_value(work, key + 1u, column);
            let x2 = staged_value(work, key + 2u, column);
            let x3 = staged_value(work, key + 3u, column);
            let at = V_AT + 4u * column * V_ROW + i % K4;
            put_half(at, vec4(x0.x, x1.x, x2.x, x3.x));
            put_half(at + V_ROW, vec4(x0.y, x1.y, x2.y, x3.y));
            put_half(at + 2u * V_ROW, vec4(x0.z, x1.z, x2.z, x3.z));
            put_half(at + 3u * V_ROW, vec4(x0.w, x1.w, x2.w, x3.w));
        }
    } else {
        for (var i = tid; i < BLOCK_K * DV4; i += THREADS) {
            let x = staged_value(work, first + i / DV4, i % DV4);
            put_half(V_AT + i / DV4 * V_ROW + i % DV4, x);
        }
    }
}
