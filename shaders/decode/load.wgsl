// Rows of q and of the cache.

fn load_qk(is_k: bool, row: u32, quad: u32) -> vec4<f32> {
    if (is_k) {
        return key_quad(row, quad);
    }
    return load_q(row + quad);
}

// A unit that is there, where a lane has one less than others.
fn existing_unit(u: u32) -> u32 {
    return select(min(u, UNITS - 1u), u, UNITS % KEY_LANES == 0u);
}

// Rows first .. first + ROWS of a kv head: rotated, scaled, and with one stream turned by its
// phase. `place` is that of row 0 of the sequence, negative where the sequence is shorter than the
// call. Rows that do not exist are zero.
fn stage_q(tid: u32, batch: u32, kv_head: u32, first: u32, place: i32) {
    for (var n = tid; n < ROWS * UNITS; n += THREADS) {
        let row = first + n % ROWS;
        let u = n / ROWS;
        let i = row / params.head_rows;
        var x = Pairs(vec4(0.0), vec4(0.0));
        if (i < params.seq_q) {
            let head_row = head_row_of(kv_head, row);
            x = load_unit(false, row_at(params.q, batch, head_row.source, i), u);
            if (u < PAIR_QUADS) {
                x = rotate_query(x, batch, i32(i) + select(0, place, params.among_keys != 0u), u);
            }
            var c = params.q_scale;
            var t = 0.0;
            if (TURN) {
                t = c * head_row.phases.y;
                c = c * head_row.phases.x;
            }
            if (TURN && u < PAIR_QUADS) {
                x = Pairs(x.a * c + x.b * t, x.b * c - x.a * t);
            } else {
                x = Pairs(x.a * c, x.b * c);
            }
        }
        tile[Q_AT + 2u * n] = x.a;
        tile[Q_AT + 2u * n + 1u] = x.b;
    }
}
