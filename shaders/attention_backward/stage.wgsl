// Rows of both sides on their way into workgroup memory, in the order that attention_backward.wgsl
// states. Neighbouring invocations load neighbouring channels.

var<workgroup> shared_tile: array<array<vec4<f32>, 5>, SHARED>;

fn put_rows(at: u32, x: Pairs, y: Pairs) {
    shared_tile[at][0] = vec4(x.a.x, y.a.x, x.b.x, y.b.x);
    shared_tile[at][1] = vec4(x.a.y, y.a.y, x.b.y, y.b.y);
    shared_tile[at][2] = vec4(x.a.z, y.a.z, x.b.z, y.b.z);
    shared_tile[at][3] = vec4(x.a.w, y.a.w, x.b.w, y.b.w);
}

fn put_walked(at: u32, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>) {
    shared_tile[at][0] = vec4(x0.x, x1.x, x2.x, x3.x);
    shared_tile[at][1] = vec4(x0.y, x1.y, x2.y, x3.y);
    shared_tile[at][2] = vec4(x0.z, x1.z, x2.z, x3.z);
    shared_tile[at][3] = vec4(x0.w, x1.w, x2.w, x3.w);
}

// Where a quad of walked rows of unit u lies among its kind. Invocations that stage neighbouring
// units of one quad, and those that read neighbouring quads of one unit, meet different banks.
fn slot(cq: u32, u: u32) -> u32 {
    return (cq + u) % BLOCK_CQ;
}

// Units unit0 .. of q and k. Of walked rows half a unit at a time where that is possible: an
// invocation then holds half as many of them.
fn stage_pairs(tid: u32, work: Work, first: u32, unit0: u32, units: u32) {
    for (var i = tid; i < BLOCK_RP * CHUNK_UNITS; i += THREADS) {
        let u = i % CHUNK_UNITS;
        let rp = i / CHUNK_UNITS;
        if (u < units) {
            let row = work.own + 2u * rp;
            let x = own_pairs(work, row, unit0 + u);
            put_rows(R_AT + u * R_PITCH + rp, x, own_pairs(work, row + 1u, unit0 + u));
        }
    }
    if (HALVES) {
        for (var i = tid; i < 2u * BLOCK_CQ * CHUNK_UNITS; i += THREADS) {
            let half = i % 2u;
            let u = i / 2u % CHUNK_UNITS;
            let cq = i / (2u * CHUNK_UNITS);
            if (u < units) {
                let x0 = walked_half(work, first + cq, unit0 + u, half);
                let x1 = walked_half(work, first + cq + BLOCK_CQ, unit0 + u, half);
                let x2 = walked_half(work, first + cq + 2u * BLOCK_CQ, unit0 + u, half);
                let x3 = walked_half(work, first + cq + 3u * BLOCK_CQ, unit0 + u, half);
                put_walked(C_AT + (2u * u + half) * BLOCK_CQ + slot(cq, u), x0, x1, x2, x3);
            }
        }
        return;
    }
    for (var i = tid; i < BLOCK_CQ * CHUNK_UNITS; i += THREADS) {
        let u = i % CHUNK_UNITS;
        let cq = i / CHUNK_UNITS;
        if (u < units) {
            let x0 = walked_pairs(work, first + cq, unit0 + u);
            let x1 = walked_pairs(work, first + cq + BLOCK_CQ, unit0 + u);
            let x2 = walked_pairs(work, first + cq + 2u * BLOCK_CQ, unit0 + u);
            let x3 = walked_pairs(work, first + cq + 3u * BLOCK_CQ, unit0 + u);
            let at = C_AT + 2u * u * BLOCK_CQ + slot(cq, u);
            put_walked(at, x0.a, x1.a, x2.a, x3.a);
            put_walked(at + BLOCK_CQ, x0.b, x1.b, x2.b, x3.b);
        }
    }
}

// Units of eight channels of v and dO. dO has a tile for every stream.
fn stage_values(tid: u32, work: Work, first: u32, unit0: u32, units: u32) {
    for (var stream = 0u; stream < select(STREAMS, 1u, KEYS_OWN); stream++) {
        for (var i = tid; i < BLOCK_RP * CHUNK_UNITS; i += THREADS) {
            let u = i % CHUNK_UNITS;
            let rp = i / CHUNK_UNITS;
            if (u < units) {
                let row = work.own + 2u * rp;
                let column = 2u * (unit0 + u);
                let x = Pairs(
                    own_value(work, stream, row, column),
                    own_value(work, stream, row, column + 1u),
                );
                let y = Pairs(
                    own_value(work, stream, row + 1u, column),
                    own_value(work, stream, row + 1u, column + 1u),
                );
                put_rows(R_AT + (stream * CHUNK_UNITS + u) * R_PITCH + rp, x, y);
            }
        }
    }
    for (var stream = 0u; stream < select(1u, STREAMS, KEYS_OWN); stream++) {
        for (var i = tid; i < 2u * BLOCK_CQ * CHUNK_UNITS; i += THREADS) {
            let half = i % 2u;
            let u = i / 2u % CHUNK_UNITS;
            let cq = i / (2u * CHUNK_UNITS);
            if (u < units) {
                let column = 2u * (unit0 + u) + half;
                let x0 = walked_value(work, stream, first + cq, column);
                let x1 = walked_value(work, stream, first + cq + BLOCK_CQ, column);
                let x2 = walked_value(work, stream, first + cq + 2u * BLOCK_CQ, column);
                let x3 = walked_value(work, stream, first + cq + 3u * BLOCK_CQ, column);
                let at = VALUES_AT + (2u * (stream * CHUNK_UNITS + u) + half) * BLOCK_CQ;
                put_walked(at + slot(cq, u), x0, x1, x2, x3);
            }
        }
    }
}

// Walked rows as what is multiplied by weights: a group is four rows of four channels. Quads
// quad0 .. quad0 + Y_QUADS; second members Y_HALF behind the first.
fn stage_pairs_by_row(tid: u32, work: Work, first: u32, quad0: u32) {
    for (var i = tid; i < 4u * Y_QUADS * Y_COLS; i += THREADS) {
        let u = i % Y_COLS;
        let c = i / Y_COLS % 4u;
        let cq = i / (4u * Y_COLS);
        var x = Pairs(vec4(0.0), vec4(0.0));
        if (u < UNITS) {
            x = walked_pairs(work, first + quad0 + cq + c * BLOCK_CQ, u);
        }
        let at = Y_AT + cq * Y_COLS + u;
        shared_tile[at][c] = x.a;
        shared_tile[at + Y_HALF][c] = x.b;
    }
}

fn stage_values_by_row(tid: u32, work: Work, stream: u32, first: u32, quad0: u32) {
    for (var i = tid; i < 8u * Y_QUADS * Y_COLS; i += THREADS) {
        let half = i % 2u;
        let u = i / 2u % Y_COLS;
        let c = i / (2u * Y_COLS) % 4u;
        let cq = i / (8u * Y_COLS);
        var x = vec4(0.0);
        if (u < VALUE_UNITS) {
            x = walked_value(work, stream, first + quad0 + cq + c * BLOCK_CQ, 2u * u + half);
        }
        shared_tile[Y_AT + cq * Y_COLS + u + half * Y_HALF][c] = x;
    }
}

// Weights of an invocation, for all to multiply by: a group is four walked rows of a row pair,
// (re 0, re 1, im 0, im 1); with one stream of two row pairs, (0, 1 of rows 0 and 1), (0, 1 of 2
// and 3).
fn put_weights(at: u32, r: u32, x: vec4<f32>, y: vec4<f32>, z: vec4<f32>, w: vec4<f32>) {
    if (STREAMS == 2u) {
        shared_tile[at][0] = vec4(x.x, y.x, z.x, w.x);
        shared_tile[at][1] = vec4(x.y, y.y, z.y, w.y);
        shared_tile[at][2] = vec4(x.z, y.z, z.z, w.z);
        shared_tile[at][3] = vec4(x.w, y.w, z.w, w.w);
    } else {
        shared_tile[at][r % 2u * 2u] = vec4(x.x, y.x, x.y, y.y);
        shared_tile[at][r % 2u * 2u + 1u] = vec4(x.z, y.z, x.w, y.w);
    }
}

// (re 0, re 1, im 0, im 1) of row pair r and walked row c of a quad; with one stream the first two.
fn weights_of(at: u32, r: u32, c: u32) -> vec4<f32> {
    if (STREAMS == 2u) {
        return shared_tile[at + r][c];
    }
    let both = shared_tile[at + r / 2u][r % 2u * 2u + c / 2u];
    return select(both, both.zwxy, c % 2u == 1u);
}
