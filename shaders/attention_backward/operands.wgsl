// Rows of both sides, eight channels at a time. What does not exist is zero, whatever memory holds.

struct Pairs {
    a: vec4<f32>,
    b: vec4<f32>,
}

// Unit u of query s, rotated, scaled by softmax_scale · log2 e, and with one stream turned.
fn query_pairs(work: Work, s: u32, u: u32) -> Pairs {
    let x = query_unit(work, s, u, params.q_scale);
    let exists = s < work.rows.count;
    return Pairs(select(vec4(0.0), x.a, exists), select(vec4(0.0), x.b, exists));
}

// Where the row of a key starts; of a key that does not exist, the last one's.
fn key_at(work: Work, at: Strides, head: u32, key: u32) -> u32 {
    return head + work.batch * at.batch + min(key, work.keys - 1u) * at.row;
}

fn key_pairs(work: Work, key: u32, u: u32) -> Pairs {
    let row = key_at(work, params.k, work.k_head, key);
    let exists = key < work.keys;
    let x = select(vec4(0.0), half_unit(true, row, u, 0u), exists);
    return in_members(true, u, x, select(vec4(0.0), half_unit(true, row, u, 1u), exists));
}

fn own_pairs(work: Work, i: u32, u: u32) -> Pairs {
    if (KEYS_OWN) {
        return key_pairs(work, i, u);
    }
    return query_pairs(work, i, u);
}

fn walked_pairs(work: Work, j: u32, u: u32) -> Pairs {
    if (KEYS_OWN) {
        return query_pairs(work, j, u);
    }
    return key_pairs(work, j, u);
}

// Whether half a unit of a walked row is to be had without the other: it is neither turned nor
// interleaved.
const HALVES: bool = select(!K_INTERLEAVED, !(Q_INTERLEAVED || ROTATE_Q || TURN), KEYS_OWN);

// The members a of such a unit, or its members b.
fn walked_half(work: Work, j: u32, u: u32, half: u32) -> vec4<f32> {
    if (KEYS_OWN) {
        let row = query_at(work, min(j, work.rows.count - 1u));
        let x = half_unit(false, row, u, half) * params.q_scale;
        return select(vec4(0.0), x, j < work.rows.count);
    }
    let row = key_at(work, params.k, work.k_head, j);
    return select(vec4(0.0), half_unit(true, row, u, half), j < work.keys);
}

// A row of V, or of dO for a stream: where it starts, and whether it is there.
struct ValueRow {
    at: u32,
    exists: bool,
}

fn value_row(is_d_out: bool, work: Work, stream: u32, i: u32) -> ValueRow {
    if (is_d_out) {
        let inside = work.rows.first + min(i, work.rows.count - 1u);
        let at = row_at(params.d_out, work.batch, head_of(work.head_row, stream), inside);
        return ValueRow(at, i < work.rows.count && stream < work.head_row.streams);
    }
    return ValueRow(key_at(work, params.v, work.v_head, i), i < work.keys);
}

// Four channels of it.
fn value_quad_of(is_d_out: bool, row: ValueRow, column: u32) -> vec4<f32> {
    if (is_d_out) {
        return select(vec4(0.0), load_d_out(row.at + column), row.exists);
    }
    return select(vec4(0.0), value_quad(row.at, column), row.exists);
}

// Four channels of the own row's value: of V, or of dO of a stream.
fn own_value(work: Work, stream: u32, i: u32, column: u32) -> vec4<f32> {
    return value_quad_of(!KEYS_OWN, value_row(!KEYS_OWN, work, stream, i), column);
}

fn walked_value(work: Work, stream: u32, j: u32, column: u32) -> vec4<f32> {
    return value_quad_of(KEYS_OWN, value_row(KEYS_OWN, work, stream, j), column);
}
