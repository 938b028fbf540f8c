// Rows of q, k and v on their way into workgroup memory, in the order that attention.wgsl states.

var<workgroup> shared_tile: array<array<vec4<f32>, 5>, SHARED>;

fn stage_q(tid: u32, work: Work, first: u32, unit0: u32, units: u32) {
    for (var i = tid; i < BLOCK_QP * units; i += THREADS) {
        let rp = i % BLOCK_QP;
        let u = i / BLOCK_QP;
        let x = query_unit(work, first + 2u * rp, unit0 + u, params.q_scale);
        let y = query_unit(work, first + 2u * rp + 1u, unit0 + u, params.q_scale);
        let at = Q_AT + u * BLOCK_QP + rp;
        shared_tile[at][0] = vec4(x.a.x, y.a.x, x.b.x, y.b.x);
        shared_tile[at][1] = vec4(x.a.y, y.a.y, x.b.y, y.b.y);
        shared_tile[at][2] = vec4(x.a.z, y.a.z, x.b.z, y.b.z);
        shared_tile[at][3] = vec4(x.a.w, y.a.w, x.b.w, y.b.w);
    }
}

// Where a key quad of unit u lies among its kind. Invocations that stage neighbouring units of one
// quad, and those that read neighbouring quads of one unit, meet different banks.
fn k_slot(kq: u32, u: u32) -> u32 {
    return (kq + u) % BLOCK_KQ;
}

fn staged_half(work: Work, key: u32, u: u32, half: u32) -> vec4<f32> {
    return key_half(work, key, key_row(work, key), u, half);
}

// Neighbouring invocations load neighbouring units, so that a key is read in whole cache lines.
fn stage_k(tid: u32, work: Work, first: u32, unit0: u32, units: u32) {
    for (var i = tid; i < 2u * BLOCK_KQ * CHUNK_UNITS; i += THREADS) {
        let u = i % CHUNK_UNITS;
        let half = i / CHUNK_UNITS % 2u;
        let kq = i / (2u * CHUNK_UNITS);
        if (u >= units) {
            continue; // the last chunk is short
        }
        let key = first + kq;
        let x0 = staged_half(work, key, unit0 + u, half);
        let x1 = staged_half(work, key + BLOCK_KQ, unit0 + u, half);
        let x2 = staged_half(work, key + 2u * BLOCK_KQ, unit0 + u, half);
        let x3 = staged_half(work, key + 3u * BLOCK_KQ, unit0 + u, half);
        let c0 = vec4(x0.x, x1.x, x2.x, x3.x);
        let c1 = vec4(x0.y, x1.y, x2.y, x3.y);
        let c2 = vec4(x0.z, x1.z, x2.z, x3.z);
        let c3 = vec4(x0.w, x1.w, x2.w, x3.w);
        let at = K_AT + 2u * u * BLOCK_KQ + k_slot(kq, u);
        if (interleaved(true, unit0 + u)) {
            shared_tile[at][2u * half] = c0;
            shared_tile[at + BLOCK_KQ][2u * half] = c1;
            shared_tile[at][2u * half + 1u] = c2;
            shared_tile[at + BLOCK_KQ][2u * half + 1u] = c3;
        } else {
            let member = at + half * BLOCK_KQ;
            shared_tile[member][0] = c0;
            shared_tile[member][1] = c1;
            shared_tile[member][2] = c2;
            shared_tile[member][3] = c3;
        }
    }
}

// Whether a value was not finite. A masked key's weight of 0 would not silence it, as 0 · NaN is
// NaN: zeros are staged in its place, and the end of the kernel gives it to the rows that see its
// key.
var<workgroup> non_finite: atomic<u32>;

// Key quads quad0 .. quad0 + V_QUADS of the tile.
fn stage_v(tid: u32, work: Work, first: u32, quad0: u32) {
    for (var i = tid; i < 4u * V_QUADS * V_COLS; i += THREADS) {
        let column = i % V_COLS;
        let c = i / V_COLS % 4u;
        let kq = i / (4u * V_COLS);
        let key = first + quad0 + kq + c * BLOCK_KQ;
        let x = value(work, key, value_row(work, key), column);
        let bad = not_finite(x);
        if (any(bad)) {
            atomicStore(&non_finite, 1u);
        }
        shared_tile[V_AT + kq * V_COLS + column][c] = select(x, vec4(0.0), bad);
    }
}

