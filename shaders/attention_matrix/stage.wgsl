// Rows of q, k and v on their way into workgroup memory as f16, as attention_matrix/sizes.wgsl lays
// them out.
//
// query_unit: attention/load.wgsl; key_half, value: attention/load_keys.wgsl; key_row, value_row:
// attention/places_*.wgsl; not_finite: finite.wgsl; part_of, part_of_query:
// attention_matrix/parts.wgsl

// The unit that lies at a quad of either half of a row; UNITS where there is padding. Pairs are
// padded to whole fragments, and so is the tail behind them.
fn unit_at(quad: u32) -> u32 {
    const TAIL_AT = PAIR_FRAGMENTS * M4;
    if (quad < TAIL_AT) {
        return select(UNITS, quad, quad < PAIR_QUADS);
    }
    return min(PAIR_QUADS + quad - TAIL_AT, UNITS);
}

fn stage_q(tid: u32, work: Work, first: u32, n: u32) {
    for (var i = tid; i < BLOCK_Q * HALF_QUADS; i += THREADS) {
        let row = i / HALF_QUADS;
        let quad = i % HALF_QUADS;
        let u = unit_at(quad);
        var x = Pairs(vec4(0.0), vec4(0.0));
        if (u < UNITS) {
            var factor = 1.0;
            if (X3) {
                factor = shares[row * PARTS].x;
            }
            x = query_unit(work, first + row, u, factor);
        }
        put_half(row * K_ROW + quad, part_of_query(x.a, n));
        put_half(row * K_ROW + HALF_QUADS + quad, part_of_query(x.b, n));
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
        var x = vec4(0.0);
        if (u < UNITS) {
            x = key_half(work, key, key_row(work, key), u, half);
        }
        for (var n = 0u; n < K_PARTS; n++) {
            let to = at + n * K_QUADS;
            let y = part_of(x, K_PARTS, n);
            if (interleaved(true, u)) {
                let z = vec4<f16>(y);
                half_tile[to][2u * half] = z.x;
                half_tile[to + HALF_QUADS][2u * half] = z.y;
                half_tile[to][2u * half + 1u] = z.z;
                half_tile[to + HALF_QUADS][2u * half + 1u] = z.w;
            } else {
                put_half(to + half * HALF_QUADS, y);
            }
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

fn put_value(quad: u32, x: vec4<f32>) {
    for (var n = 0u; n < V_PARTS; n++) {
        put_half(quad + n * V_QUADS, part_of(x, V_PARTS, n));
    }
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
            put_value(at, vec4(x0.x, x1.x, x2.x, x3.x));
            put_value(at + V_ROW, vec4(x0.y, x1.y, x2.y, x3.y));
            put_value(at + 2u * V_ROW, vec4(x0.z, x1.z, x2.z, x3.z));
            put_value(at + 3u * V_ROW, vec4(x0.w, x1.w, x2.w, x3.w));
        }
    } else {
        for (var i = tid; i < BLOCK_K * DV4; i += THREADS) {
            let x = staged_value(work, first + i / DV4, i % DV4);
            put_value(V_AT + i / DV4 * V_ROW + i % DV4, x);
        }
    }
}
