// Gradients on their way out, as f32 channels.

// dq [B, H_q, S_q, D] or dk [B, H_kv, S_k, D], by strides
@group(0) @binding(19) var<storage, read_write> grad: array<f32>;

// The own row i of a tensor with these strides.
fn own_row(work: Work, at: Strides, i: u32) -> u32 {
    let first = select(work.rows.first, work.k_first, KEYS_OWN);
    return row_at(at, work.batch, work.head, first + i);
}

// Unit u of dq or dk, summed over the walked rows: scaled, turned by its phase, turned back.
fn store_unit(work: Work, i: u32, u: u32, sum: Pairs, phase: vec2<f32>) {
    let scale = select(params.scale, params.k_scale, KEYS_OWN);
    var x = Pairs(sum.a * scale, sum.b * scale);
    if (TURN && !KEYS_OWN) {
        if (u < PAIR_QUADS) {
            x = Pairs(x.a * phase.x - x.b * phase.y, x.b * phase.x + x.a * phase.y);
        } else {
            x = Pairs(x.a * phase.x, x.b * phase.x);
        }
    }
    let row = own_row(work, params.grad, i);
    if (u >= PAIR_QUADS) {
        let d = 2u * PAIRS + 8u * (u - PAIR_QUADS);
        for (var c = 0u; c < 4u; c++) {
            if (d + c < HEAD_DIM) {
                grad[row + d + c] = x.a[c];
            }
            if (d + 4u + c < HEAD_DIM) {
                grad[row + d + 4u + c] = x.b[c];
            }
        }
        return;
    }
    x = turned_back(x, work, i, u);
    for (var c = 0u; c < 4u; c++) {
        let pair = 4u * u + c;
        if (pair < PAIRS) {
            var a = pair + pair / BLOCK_PAIRS * BLOCK_PAIRS;
            var b = a + BLOCK_PAIRS;
            if (GRAD_INTERLEAVED) {
                a = 2u * pair;
                b = a + 1u;
            }
            grad[row + a] = x.a[c];
            grad[row + b] = x.b[c];
        }
    }
}
