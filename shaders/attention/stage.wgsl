// Rows of q, k and v on their way into workgroup memory, in the order that attention.wgsl states.

fn load_qk(is_k: bool, i: u32) -> vec4<f32> {
    if (is_k) {
        return load_k(i);
    }
    return load_q(i);
}

// Channels d .. d + 3 of a row; d need not be a multiple of four. Channels past the head are zero.
fn channels(is_k: bool, row: u32, d: u32) -> vec4<f32> {
    let i = d / 4u;
    let last = HEAD_DIM / 4u - 1u;
    if (ALIGNED || d % 4u == 0u) {
        return select(vec4(0.0), load_qk(is_k, row + min(i, last)), i <= last);
    }
    let lo = select(vec4(0.0), load_qk(is_k, row + min(i, last)), i <= last);
    let hi = select(vec4(0.0), load_qk(is_k, row + min(i + 1u, last)), i < last);
    switch (d % 4u) {
        case 1u: { return vec4(lo.yzw, hi.x); }
        case 2u: { return vec4(lo.zw, hi.xy); }
        default: { return vec4(lo.w, hi.xyz); }
    }
}

fn interleaved(is_k: bool, u: u32) -> bool {
    return u < PAIR_QUADS && ((is_k && K_INTERLEAVED) || (!is_k && Q_INTERLEAVED));
}

// Half of unit u of a row. Units are pairs 4u .. 4u + 3 of the rotated part, first members and
// second members (interleaved: the lower two pairs and the upper two), then eight channels of the
// tail each. Pairs past the last one pad a unit with zeros.
fn half_unit(is_k: bool, row: u32, u: u32, half: u32) -> vec4<f32> {
    if (u >= PAIR_QUADS) {
        return channels(is_k, row, 2u * PAIRS + 8u * (u - PAIR_QUADS) + 4u * half);
    }
    let lane = vec4(0u, 1u, 2u, 3u);
    if (interleaved(is_k, u)) {
        let x = load_qk(is_k, row + 2u * u + half);
        return select(vec4(0.0), x, vec4(4u * u + 2u * half) + lane / 2u < vec4(PAIRS));
    }
    let j = 4u * u;
    var a = j;
    if (BLOCK_PAIRS < PAIRS) {
        a += j / BLOCK_PAIRS * BLOCK_PAIRS;
    }
    let x = channels(is_k, row, a + half * BLOCK_PAIRS);
    return select(vec4(0.0), x, vec4(j) + lane < vec4(PAIRS));
}

fn load_pairs(row: u32, u: u32) -> Pairs {
    let x = half_unit(false, row, u, 0u);
    let y = half_unit(false, row, u, 1u);
    if (interleaved(false, u)) {
        return Pairs(vec4(x.xz, y.xz), vec4(x.yw, y.yw));
    }
    return Pairs(x, y);
}

// Unit u of query s, rotated, scaled, and with one stream turned by its phase.
fn query_unit(work: Work, s: u32, u: u32) -> Pairs {
    let program = work.program;
    // Queries past the last one repeat it; they are never stored.
    let inside = min(s, work.rows.count - 1u);
    let row = params.q.offset + work.batch * params.q.batch + program.source * params.q.head
        + (work.rows.first + inside) * params.q.row;
    var x = load_pairs(row, u);
    if (u < PAIR_QUADS) {
        x = rotate_query(x, work, inside, u);
    }
    var c = params.scale_log2;
    if (TURN) {
        c *= program.phases.x;
        let t = params.scale_log2 * program.phases.y;
        if (u < PAIR_QUADS) {
            return Pairs(x.a * c + x.b * t, x.b * c - x.a * t);
        }
    }
    return Pairs(x.a * c, x.b * c);
}

fn stage_q(tid: u32, work: Work, first: u32, unit0: u32, units: u32) {
    for (var i = tid; i < BLOCK_QP * units; i += THREADS) {
        let rp = i % BLOCK_QP;
        let u = i / BLOCK_QP;
        let x = query_unit(work, first + 2u * rp, unit0 + u);
        let y = query_unit(work, first + 2u * rp + 1u, unit0 + u);
        let at = Q_AT + u * BLOCK_QP + rp;
        shared_tile[at][0] = vec4(x.a.x, y.a.x, x.b.x, y.b.x);
        shared_tile[at][1] = vec4(x.a.y, y.a.y, x.b.y, y.b.y);
        shared_tile[at][2] = vec4(x.a.z, y.a.z, x.b.z, y.b.z);
        shared_tile[at][3] = vec4(x.a.w, y.a.w, x.b.w, y.b.w);
    }
}

// Four channels of one key; of a key that does not exist, zeros, whatever memory holds.
fn key_half(work: Work, head: u32, key: u32, u: u32, half: u32) -> vec4<f32> {
    let row = head + k_row(work.batch, min(key, work.keys - 1u));
    return select(vec4(0.0), half_unit(true, row, u, half), key < work.keys);
}

// Where a key quad of unit u lies among its kind. Invocations that stage neighbouring units of one
// quad, and those that read neighbouring quads of one unit, meet different banks.
fn k_slot(kq: u32, u: u32) -> u32 {
    return (kq + u) % BLOCK_KQ;
}

// Neighbouring invocations load neighbouring units, so that a key is read in whole cache lines.
fn stage_k(tid: u32, work: Work, head: u32, first: u32, unit0: u32, units: u32) {
    for (var i = tid; i < 2u * BLOCK_KQ * CHUNK_UNITS; i += THREADS) {
        let u = i % CHUNK_UNITS;
        let half = i / CHUNK_UNITS % 2u;
        let kq = i / (2u * CHUNK_UNITS);
        if (u >= units) {
            continue; // the last chunk is short
        }
        let key = first + kq;
        let x0 = key_half(work, head, key, unit0 + u, half);
        let x1 = key_half(work, head, key + BLOCK_KQ, unit0 + u, half);
        let x2 = key_half(work, head, key + 2u * BLOCK_KQ, unit0 + u, half);
        let x3 = key_half(work, head, key + 3u * BLOCK_KQ, unit0 + u, half);
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

// Four channels of the value of one key; of a key that does not exist, zeros, whatever memory holds.
fn value(work: Work, head: u32, key: u32, column: u32) -> vec4<f32> {
    let row = head + v_row(work.batch, min(key, work.keys - 1u));
    let x = load_v(row + min(column, VALUE_DIM / 4u - 1u));
    return select(vec4(0.0), x, key < work.keys && column < VALUE_DIM / 4u);
}

// Whether a value was not finite. A masked key's weight of 0 would not silence it, as 0 · NaN is
// NaN: zeros are staged in its place, and the end of the kernel gives it to the rows that see its key.
var<workgroup> strays: atomic<u32>;

// Key quads quad0 .. quad0 + V_QUADS of the tile.
fn stage_v(tid: u32, work: Work, head: u32, first: u32, quad0: u32) {
    for (var i = tid; i < 4u * V_QUADS * V_COLS; i += THREADS) {
        let column = i % V_COLS;
        let c = i / V_COLS % 4u;
        let kq = i / (4u * V_COLS);
        let key = first + quad0 + kq + c * BLOCK_KQ;
        let x = value(work, head, key, column);
        let stray = not_finite(x);
        if (any(stray)) {
            atomicStore(&strays, 1u);
        }
        shared_tile[V_AT + kq * V_COLS + column][c] = select(x, vec4(0.0), stray);
    }
}

