// What each row of attention looks like, without storing a score: one pass over the keys with a
// running maximum, for the real and the imaginary softmax. One workgroup: BLOCK queries of a head.
//
// score_tile, seen: scores/tile.wgsl; MASKED: softmax.wgsl

struct Row {
    lse: f32,
    entropy: f32,
    mean_distance: f32,
    mass_within: f32,
    mass_beyond: f32,
    mass_first: f32,
}

// Sums over the keys so far of w = e^(s − top).
struct Sums {
    top: f32,
    within: f32,   // w up to the distance
    beyond: f32,   // w past it
    first: f32,    // w of key 0
    distance: f32, // w · distance
    score: f32,    // w · (s − top)
}

@group(0) @binding(5) var<storage, read_write> rows: array<Row>; // [B, heads, queries, 2]

var<workgroup> partial: array<Sums, THREADS>;

// The same sums against another top.
fn against(x: Sums, top: f32) -> Sums {
    let shift = x.top - top;
    let f = exp(shift);
    // w · (s − top) = w · (s − old top) + w · shift. Before any key there is nothing to shift.
    let mass = x.within + x.beyond;
    let score = f * (x.score + select(shift * mass, 0.0, mass == 0.0));
    return Sums(top, x.within * f, x.beyond * f, x.first * f, x.distance * f, score);
}

fn added(x: Sums, y: Sums) -> Sums {
    let top = max(x.top, y.top);
    let a = against(x, top);
    let b = against(y, top);
    return Sums(
        top,
        a.within + b.within,
        a.beyond + b.beyond,
        a.first + b.first,
        a.distance + b.distance,
        a.score + b.score,
    );
}

fn key_sums(x: Sums, s: f32, key: u32, distance: u32) -> Sums {
    var y = x;
    if (s > x.top) {
        y = against(x, s);
    }
    let w = exp(s - y.top);
    if (distance <= params.distance) {
        y.within += w;
    } else {
        y.beyond += w;
    }
    if (key == 0u) {
        y.first += w;
    }
    y.distance += w * f32(distance);
    // A score of minus infinity has no weight, and 0 · ∞ is NaN.
    y.score += select(w * (s - y.top), 0.0, w == 0.0);
    return y;
}

fn finished(x: Sums) -> Row {
    let mass = x.within + x.beyond;
    if (mass == 0.0) {
        return Row(params.minus_infinity, 0.0, 0.0, 0.0, 0.0, 0.0);
    }
    let score = x.score / mass;
    return Row(
        x.top + log(mass),
        log(mass) - score,
        x.distance / mass,
        x.within / mass,
        x.beyond / mass,
        x.first / mass,
    );
}

@compute @workgroup_size(WORKGROUP)
fn statistics(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let linear = group_id.x + group_id.y * params.groups_x;
    let plane = linear / params.q_tiles;
    if (plane >= params.batch * params.heads) {
        return;
    }
    let batch = plane / params.heads;
    let q_head = chosen[plane % params.heads];
    let q0 = linear % params.q_tiles * BLOCK;
    let tx = tid % TX;
    let ty = tid / TX;

    var sums: array<Sums, 2u * ROWS>; // [component, row]
    for (var i = 0u; i < 2u * ROWS; i++) {
        sums[i] = Sums(MASKED, 0.0, 0.0, 0.0, 0.0, 0.0);
    }
    let keys = seen(params.q_first + min(q0 + BLOCK, params.q_count) - 1u);
    for (var k0 = 0u; k0 < keys; k0 += BLOCK) {
        var re: array<vec4<f32>, STATES>;
        var im: array<vec4<f32>, STATES>;
        score_tile(tid, batch, q_head, q0, k0, &re, &im);
        for (var i = 0u; i < STATES; i++) {
            let r = i / COLS;
            let row = params.q_first + q0 + ty * ROWS + r;
            let visible = seen(row);
            for (var e = 0u; e < 4u; e++) {
                let key = k0 + 4u * (i % COLS * TX + tx) + e;
                if (key < visible) {
                    let distance = u32(abs(i32(row) + params.position - i32(key)));
                    sums[r] = key_sums(sums[r], re[i][e] * params.scale, key, distance);
                    sums[ROWS + r] =
                        key_sums(sums[ROWS + r], im[i][e] * params.scale, key, distance);
                }
            }
        }
    }
    // The parts of a row's invocations, in order.
    for (var i = 0u; i < 2u * ROWS; i++) {
        partial[tid] = sums[i];
        workgroupBarrier(); // parts are written
        if (tx == 0u) {
            var sum = partial[tid];
            for (var x = 1u; x < TX; x++) {
                sum = added(sum, partial[tid + x]);
            }
            let q = q0 + ty * ROWS + i % ROWS;
            if (q < params.q_count) {
                rows[2u * (plane * params.q_count + q) + i / ROWS] = finished(sum);
            }
        }
        workgroupBarrier(); // and read
    }
}
