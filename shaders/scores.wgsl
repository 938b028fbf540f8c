// Writes the real and imaginary scores, or attention probabilities, of chosen heads for a window
// of queries and keys. One workgroup: one tile of one head.
//
// score_tile, seen: scores/tile.wgsl

// [B, heads, queries, keys], 2 components by strides
@group(0) @binding(5) var<storage, read_write> window: array<f32>;
// [B, 2 H_q, S_q], re and im by turns
@group(0) @binding(7) var<storage, read> lse: array<f32>;

fn written(score: f32, row: u32, visible: bool, lse_row: u32) -> f32 {
    let x = score * params.scale;
    if (params.probabilities != 0u) {
        return select(0.0, exp(x - lse[lse_row]), visible);
    }
    return select(params.minus_infinity, x, visible);
}

@compute @workgroup_size(WORKGROUP)
fn scores(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let linear = group_id.x + group_id.y * params.groups_x;
    let k_tile_index = linear % params.k_tiles;
    let q_tile_index = linear / params.k_tiles % params.q_tiles;
    let plane = linear / params.k_tiles / params.q_tiles;
    if (plane >= params.batch * params.heads) {
        return;
    }
    let batch = plane / params.heads;
    let q_head = chosen[plane % params.heads];
    let q0 = q_tile_index * BLOCK;
    let k0 = k_tile_index * BLOCK;
    var re: array<vec4<f32>, STATES>;
    var im: array<vec4<f32>, STATES>;
    score_tile(tid, batch, q_head, q0, k0, &re, &im);

    let tx = tid % TX;
    let ty = tid / TX;
    for (var i = 0u; i < STATES; i++) {
        let q = q0 + ty * ROWS + i / COLS;
        let k = k0 + 4u * (i % COLS * TX + tx);
        if (q >= params.q_count) {
            continue;
        }
        let row = params.q_first + q;
        let lse_row = (batch * 2u * params.q_heads + 2u * q_head) * params.seq_q + row;
        let at = 2u * plane * params.q_count * params.k_count + q * params.k_count * params.step;
        for (var e = 0u; e < 4u; e++) {
            if (k + e < params.k_count) {
                let visible = params.k_first + k + e < seen(row);
                let entry = at + (k + e) * params.step;
                window[entry] = written(re[i][e], row, visible, lse_row);
                window[entry + params.component] =
                    written(im[i][e], row, visible, lse_row + params.seq_q);
            }
        }
    }
}
