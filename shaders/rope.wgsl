// RoPE: rotates each pair (a, b) of a head by the angle of its position.
//     a' = a cos − b sin      b' = b cos + a sin
//
// One workgroup: WORKGROUP (position, unit) places of HEAD_BLOCK heads of one batch. One
// invocation: four pairs of one position, in every head of the block, so that one fetch of their
// cos and sin serves all of them. Units past the pairs are four channels of the tail, copied.
//
// row_in: rope/params.wgsl; load_stored, store_stored: rope/in_place.wgsl or apart.wgsl; decode,
// encode: rope/quad_*.wgsl; cos_sin_quad: rotary.wgsl

override WORKGROUP: u32;
override HEAD_BLOCK: u32;       // heads an invocation, q and k counted on
override PAIR_QUADS: u32;       // groups of four pairs
override TAIL_QUADS: u32;       // groups of four channels that are copied; 0 in place
override BLOCK_QUADS: u32;      // pair quads of one half-split block
override READ_INTERLEAVED: bool;
override WRITE_INTERLEAVED: bool;

struct Pairs {
    a: vec4<f32>,
    b: vec4<f32>,
}

// First entry of pair quad u in a half-split row; the second members lie BLOCK_QUADS behind.
fn half_entry(u: u32) -> u32 {
    return u + u / BLOCK_QUADS * BLOCK_QUADS;
}

fn load_pairs(row: Row, u: u32) -> Pairs {
    if (READ_INTERLEAVED) {
        let lo = decode(load_stored(row.is_k, row.read + 2u * u));
        let hi = decode(load_stored(row.is_k, row.read + 2u * u + 1u));
        return Pairs(vec4(lo.xz, hi.xz), vec4(lo.yw, hi.yw));
    }
    let i = row.read + half_entry(u);
    return Pairs(decode(load_stored(row.is_k, i)), decode(load_stored(row.is_k, i + BLOCK_QUADS)));
}

fn store_pairs(row: Row, u: u32, x: Pairs) {
    if (WRITE_INTERLEAVED) {
        store_stored(row.is_k, row.write + 2u * u, encode(vec4(x.a.x, x.b.x, x.a.y, x.b.y)));
        store_stored(row.is_k, row.write + 2u * u + 1u, encode(vec4(x.a.z, x.b.z, x.a.w, x.b.w)));
    } else {
        let i = row.write + half_entry(u);
        store_stored(row.is_k, i, encode(x.a));
        store_stored(row.is_k, i + BLOCK_QUADS, encode(x.b));
    }
}

fn scaled(t: CosSin) -> CosSin {
    return CosSin(t.cos * params.gain, t.sin * (params.gain * params.direction));
}

// What one invocation does to one head.
fn turn(row: Row, u: u32, t: CosSin) {
    if (TAIL_QUADS > 0u && u >= PAIR_QUADS) {
        let channel = PAIR_QUADS + u;
        store_stored(row.is_k, row.write + channel, load_stored(row.is_k, row.read + channel));
        return;
    }
    let x = load_pairs(row, u);
    store_pairs(row, u, Pairs(x.a * t.cos - x.b * t.sin, x.b * t.cos + x.a * t.sin));
}

@compute @workgroup_size(WORKGROUP)
fn rope(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let group = group_id.x + group_id.y * params.groups_x;
    let units = PAIR_QUADS + TAIL_QUADS;
    let place = group % params.blocks * WORKGROUP + tid;
    let s = place / units;
    let u = place % units;
    let head_first = group / params.blocks % params.head_blocks * HEAD_BLOCK;
    let batch = group / params.blocks / params.head_blocks;
    if (batch >= params.batch || s >= params.seq) {
        return;
    }
    let head_end = min(head_first + HEAD_BLOCK, params.heads_q + params.heads_k);
    // The tail does not turn: any entry will do.
    let pair = min(u, PAIR_QUADS - 1u);
    let t_q = scaled(cos_sin_quad(params.plane_q, batch, s, pair));
    var t_k = t_q;
    if (params.plane_k != params.plane_q) {
        t_k = scaled(cos_sin_quad(params.plane_k, batch, s, pair));
    }
    // Heads of q, then of k: two loops, so that each access has one buffer. With a branch inside,
    // software adapters execute both arms.
    for (var head = head_first; head < min(head_end, params.heads_q); head++) {
        turn(row_in(false, batch, head, s), u, t_q);
    }
    for (var head = max(head_first, params.heads_q); head < head_end; head++) {
        turn(row_in(true, batch, head - params.heads_q, s), u, t_k);
    }
}
