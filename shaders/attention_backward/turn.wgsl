// Rotations: of queries on their way in, and back, of gradients on their way out.

@group(0) @binding(8) var<storage, read> cos_sin: array<vec2<f32>>; // [planes, positions, pairs]

struct CosSin {
    cos: vec4<f32>,
    sin: vec4<f32>,
}

fn turn_of_pair(at: u32, stride: u32, pair: u32) -> vec2<f32> {
    // Pairs past the last one pad a group of four; their channels are zero.
    let j = min(pair, params.rotary.pairs - 1u);
    var entry = at;
    if (params.rotary.use_axes != 0u) {
        let stream = (params.rotary.axes[j / 64u][(j / 16u) % 4u] >> (2u * (j % 16u))) & 3u;
        entry += stream * stride;
    }
    let place = workspace[entry];
    let t = cos_sin[(place & 0x7fffffffu) * params.rotary.pairs + j];
    return vec2(t.x, select(t.y, -t.y, place >= 0x80000000u));
}

fn turn_of(at: u32, stride: u32, quad: u32) -> CosSin {
    let t0 = turn_of_pair(at, stride, 4u * quad);
    let t1 = turn_of_pair(at, stride, 4u * quad + 1u);
    let t2 = turn_of_pair(at, stride, 4u * quad + 2u);
    let t3 = turn_of_pair(at, stride, 4u * quad + 3u);
    return CosSin(vec4(t0.x, t1.x, t2.x, t3.x), vec4(t0.y, t1.y, t2.y, t3.y));
}

fn turn_of_query(work: Work, s: u32, quad: u32) -> CosSin {
    let at = params.q_places_at + work.batch * params.seq_q + s;
    return turn_of(at, params.batch * params.seq_q, quad);
}

fn rotate_query(x: Pairs, work: Work, s: u32, quad: u32) -> Pairs {
    if (!ROTATE_Q) {
        return x;
    }
    let t = turn_of_query(work, s, quad);
    return Pairs(x.a * t.cos - x.b * t.sin, x.b * t.cos + x.a * t.sin);
}

// The transposed rotation, the table's scale included, of the gradient of an own row.
fn turned_back(x: Pairs, work: Work, i: u32, quad: u32) -> Pairs {
    if (!UNROTATE) {
        return x;
    }
    var t: CosSin;
    if (KEYS_OWN) {
        let at = params.k_places_at + work.batch * params.seq_k + i;
        t = turn_of(at, params.batch * params.seq_k, quad);
    } else {
        t = turn_of_query(work, i, quad);
    }
    return Pairs(x.a * t.cos + x.b * t.sin, x.b * t.cos - x.a * t.sin);
}
