// Rows of q, k and v, a few channels at a time.
//
// channels: channels.wgsl

fn load_qk(is_k: bool, row: u32, quad: u32) -> vec4<f32> {
    if (is_k) {
        return key_quad(row, quad);
    }
    return load_q(row + quad);
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
        let x = load_qk(is_k, row, 2u * u + half);
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

// The two halves of unit u in first and second members.
fn in_members(is_k: bool, u: u32, x: vec4<f32>, y: vec4<f32>) -> Pairs {
    if (interleaved(is_k, u)) {
        return Pairs(vec4(x.xz, y.xz), vec4(x.yw, y.yw));
    }
    return Pairs(x, y);
}

// Where the row of a query starts, by its place in the sequence.
fn query_at(work: Work, s: u32) -> u32 {
    return params.q.offset + work.batch * params.q.batch + work.head_row.source * params.q.head
        + (work.rows.first + s) * params.q.row;
}

// Unit u of query s, rotated, times scale, and where the shader says so turned by the first phase.
fn query_unit(work: Work, s: u32, u: u32, scale: f32) -> Pairs {
    let head_row = work.head_row;
    // Queries past the last one repeat it; they are never stored.
    let inside = min(s, work.rows.count - 1u);
    let row = query_at(work, inside);
    var x = in_members(false, u, half_unit(false, row, u, 0u), half_unit(false, row, u, 1u));
    if (u < PAIR_QUADS) {
        x = rotate_query(x, work, inside, u);
    }
    var c = scale;
    if (TURN) {
        c *= head_row.phases.x;
        let t = scale * head_row.phases.y;
        if (u < PAIR_QUADS) {
            return Pairs(x.a * c + x.b * t, x.b * c - x.a * t);
        }
    }
    return Pairs(x.a * c, x.b * c);
}

