// Outputs of one chunk: its queries against the state before it, and under a causal mask against
// the chunk's own keys; without one, against the state after all chunks.
//
// One workgroup: BLOCK queries and BLOCK values of one output head. Tiles in workgroup memory hold
// vectors of four rows or four columns, in the order the inner loops read them:
//     queries, keys  [feature, row quad]   rotated, and as they are for the denominator
//     state          [feature, column quad]
//     weights        [key, row quad]
//     values         [key, column quad]
//
// row_at: strides.wgsl; state_place, rotate, channels_*: linear_attention.wgsl; query:
// queries.wgsl; key_features: keys.wgsl; load_v, store_out: io/*.wgsl

override WORKGROUP: u32; // THREADS

// [B, H_kv, chunks + 1, STATE_QUADS]
@group(0) @binding(6) var<storage, read> workspace: array<vec4<f32>>;

const KEY_STEP: u32 = 16u;                       // keys whose weights are handed over at once
const TILE: u32 = STEP * BLOCK_QUADS;            // STEP features are staged at once
const ROTATED_Q: u32 = 0u;
const STATE: u32 = TILE;
const PLAIN_Q: u32 = 2u * TILE;
const ROTATED_K: u32 = 3u * TILE;
const PLAIN_K: u32 = 4u * TILE;
const WEIGHTS: u32 = 0u;
const VALUES: u32 = 2u * TILE;

var<workgroup> tiles: array<vec4<f32>, 5u * TILE>;
// Whether a value of the chunk was not finite. The weight of 0 of a query before it would not
// silence it, as 0 · NaN is NaN: zeros are staged in its place, and the queries from its own on get
// it at the end.
var<workgroup> non_finite: atomic<u32>;

fn value(batch: u32, kv_head: u32, s: u32, column: u32) -> vec4<f32> {
    if (s >= params.seq_k || column >= VALUE_QUADS) {
        return vec4(0.0);
    }
    return load_v(row_at(params.v, batch, kv_head, s) + column);
}

// Of a key; those past the last one are zero.
fn key(batch: u32, kv_head: u32, s: u32, unit: u32) -> Features {
    if (s >= params.seq_k) {
        return Features(vec2(0.0), vec2(0.0));
    }
    let x = key_features(row_at(params.k, batch, kv_head, s), unit);
    return Features(rotate(x, params.plane_k, batch, s, unit), x);
}

// Two features of one of a quad's four rows.
fn put(rotated: u32, plain: u32, quad: u32, local_unit: u32, r: u32, x: Features) {
    let at = 2u * local_unit * BLOCK_QUADS + quad;
    tiles[rotated + at][r] = x.rotated.x;
    tiles[rotated + at + BLOCK_QUADS][r] = x.rotated.y;
    tiles[plain + at][r] = x.plain.x;
    tiles[plain + at + BLOCK_QUADS][r] = x.plain.y;
}

@compute @workgroup_size(WORKGROUP)
fn outputs(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let linear = group_id.x + group_id.y * params.groups_x;
    if (linear >= VALUE_BLOCKS * params.tiles * params.heads_out * params.batch) {
        return;
    }
    let column0 = linear % VALUE_BLOCKS * BLOCK_QUADS;
    let tile = linear / VALUE_BLOCKS % params.tiles;
    let slot = linear / VALUE_BLOCKS / params.tiles % params.heads_out;
    let batch = linear / VALUE_BLOCKS / params.tiles / params.heads_out;
    let head = heads[slot];
    let kv_head = head.source / params.group;
    let state = state_place(batch, kv_head, select(params.chunks, tile, CAUSAL));
    let z = state + FEATURE_DIM * VALUE_QUADS;
    let first = tile * BLOCK;
    let tx = tid % TX;
    let ty = tid / TX;
    if (tid == 0u) {
        atomicStore(&non_finite, 0u); // a barrier away from the first value
    }

    let more = zero();
    var acc: array<vec4<f32>, ROWS * COLS>;          // numerators, by columns
    var weights: array<vec4<f32>, ROWS * COLS>;      // of rotated features, by keys
    var shares: array<vec4<f32>, ROWS * COLS>;       // of plain features, by keys
    for (var i = 0u; i < ROWS * COLS; i++) {
        acc[i] = vec4(0.0);
        weights[i] = vec4(0.0);
        shares[i] = vec4(0.0);
    }
    var below: array<vec4<f32>, ROW_QUADS>;          // this invocation's part of the denominators
    for (var g = 0u; g < ROW_QUADS; g++) {
        below[g] = vec4(0.0);
    }

    for (var feature0 = 0u; feature0 < FEATURE_DIM + more; feature0 += STEP) {
        let units = min(STEP, FEATURE_DIM - feature0) / 2u;
        let unit0 = feature0 / 2u;
        for (var i = tid; i < units * BLOCK_QUADS; i += THREADS) {
            let quad = i % BLOCK_QUADS;
            let unit = unit0 + i / BLOCK_QUADS;
            let s = first + 4u * quad;
            for (var r = 0u; r < 4u + more; r++) {
                put(ROTATED_Q, PLAIN_Q, quad, i / BLOCK_QUADS, r, query(batch, head, s + r, unit));
            }
            if (CAUSAL) {
                for (var r = 0u; r < 4u + more; r++) {
                    let x = key(batch, kv_head, s + r, unit);
                    put(ROTATED_K, PLAIN_K, quad, i / BLOCK_QUADS, r, x);
                }
            }
            let channels = channels_written(unit);
            let column = min(column0 + quad, VALUE_QUADS - 1u);
            let at = STATE + 2u * (i / BLOCK_QUADS) * BLOCK_QUADS + quad;
            tiles[at] = workspace[state + channels.x * VALUE_QUADS + column];
            tiles[at + BLOCK_QUADS] = workspace[state + channels.y * VALUE_QUADS + column];
        }
        workgroupBarrier(); // queries, keys and state are staged
        for (var f = 0u; f < 2u * units + more; f++) {
            let channel = channels_read(unit0 + f / 2u)[f % 2u];
            let owner = f % TX == tx;
            for (var g = 0u; g < ROW_QUADS; g++) {
                let at_rows = f * BLOCK_QUADS + ty * ROW_QUADS + g;
                let q = tiles[ROTATED_Q + at_rows];
                let p = tiles[PLAIN_Q + at_rows];
                if (owner) {
                    below[g] = fma(p, vec4(workspace[z + channel / 4u][channel % 4u]), below[g]);
                }
                for (var j = 0u; j < COLS; j++) {
                    let at = 4u * g * COLS + j;
                    let at_columns = f * BLOCK_QUADS + j * TX + tx;
                    let x = tiles[STATE + at_columns];
                    acc[at] = fma(vec4(q.x), x, acc[at]);
                    acc[at + COLS] = fma(vec4(q.y), x, acc[at + COLS]);
                    acc[at + 2u * COLS] = fma(vec4(q.z), x, acc[at + 2u * COLS]);
                    acc[at + 3u * COLS] = fma(vec4(q.w), x, acc[at + 3u * COLS]);
                    if (CAUSAL) {
                        let k = tiles[ROTATED_K + at_columns];
                        weights[at] = fma(vec4(q.x), k, weights[at]);
                        weights[at + COLS] = fma(vec4(q.y), k, weights[at + COLS]);
                        weights[at + 2u * COLS] = fma(vec4(q.z), k, weights[at + 2u * COLS]);
                        weights[at + 3u * COLS] = fma(vec4(q.w), k, weights[at + 3u * COLS]);
                        let l = tiles[PLAIN_K + at_columns];
                        shares[at] = fma(vec4(p.x), l, shares[at]);
                        shares[at + COLS] = fma(vec4(p.y), l, shares[at + COLS]);
                        shares[at + 2u * COLS] = fma(vec4(p.z), l, shares[at + 2u * COLS]);
                        shares[at + 3u * COLS] = fma(vec4(p.w), l, shares[at + 3u * COLS]);
                    }
                }
            }
        }
        workgroupBarrier(); // and read, before the next features
    }

    if (CAUSAL) {
        // Keys behind a query do not count.
        for (var i = 0u; i < ROWS * COLS; i++) {
            let row = ty * ROWS + i / COLS;
            let key0 = 4u * (i % COLS * TX + tx);
            let seen = vec4(key0, key0 + 1u, key0 + 2u, key0 + 3u) <= vec4(row);
            weights[i] = select(vec4(0.0), weights[i], seen);
            shares[i] = select(vec4(0.0), shares[i], seen);
        }
        for (var g = 0u; g < ROW_QUADS; g++) {
            for (var j = 0u; j < COLS; j++) {
                let at = 4u * g * COLS + j;
                let one = vec4(1.0);
                below[g] += vec4(
                    dot(shares[at], one),
                    dot(shares[at + COLS], one),
                    dot(shares[at + 2u * COLS], one),
                    dot(shares[at + 3u * COLS], one),
                );
            }
        }
        // Weights · V, KEY_STEP keys at a time.
        for (var key0 = 0u; key0 < BLOCK + more; key0 += KEY_STEP) {
            for (var j = 0u; j < COLS; j++) {
                let quad = j * TX + tx;
                if (4u * quad >= key0 && 4u * quad < key0 + KEY_STEP) {
                    for (var g = 0u; g < ROW_QUADS; g++) {
                        let w = 4u * g * COLS + j;
                        let w0 = weights[w];
                        let w1 = weights[w + COLS];
                        let w2 = weights[w + 2u * COLS];
                        let w3 = weights[w + 3u * COLS];
                        let at = WEIGHTS + (4u * quad - key0) * BLOCK_QUADS + ty * ROW_QUADS + g;
                        tiles[at] = vec4(w0.x, w1.x, w2.x, w3.x);
                        tiles[at + BLOCK_QUADS] = vec4(w0.y, w1.y, w2.y, w3.y);
                        tiles[at + 2u * BLOCK_QUADS] = vec4(w0.z, w1.z, w2.z, w3.z);
                        tiles[at + 3u * BLOCK_QUADS] = vec4(w0.w, w1.w, w2.w, w3.w);
                    }
                }
            }
            for (var i = tid; i < KEY_STEP * BLOCK_QUADS; i += THREADS) {
                let s = first + key0 + i / BLOCK_QUADS;
                let x = value(batch, kv_head, s, column0 + i % BLOCK_QUADS);
                let bad = not_finite(x);
                if (any(bad)) {
                    atomicStore(&non_finite, 1u);
                }
                tiles[VALUES + i] = select(x, vec4(0.0), bad);
            }
            workgroupBarrier(); // weights and values are staged
            for (var s = 0u; s < KEY_STEP + more; s++) {
                for (var g = 0u; g < ROW_QUADS; g++) {
                    let w = tiles[WEIGHTS + s * BLOCK_QUADS + ty * ROW_QUADS + g];
                    for (var j = 0u; j < COLS; j++) {
                        let x = tiles[VALUES + s * BLOCK_QUADS + j * TX + tx];
                        let at = 4u * g * COLS + j;
                        acc[at] = fma(vec4(w.x), x, acc[at]);
                        acc[at + COLS] = fma(vec4(w.y), x, acc[at + COLS]);
                        acc[at + 2u * COLS] = fma(vec4(w.z), x, acc[at + 2u * COLS]);
                        acc[at + 3u * COLS] = fma(vec4(w.w), x, acc[at + 3u * COLS]);
                    }
                }
            }
            workgroupBarrier(); // and read, before the next keys
        }
        if (atomicLoad(&non_finite) != 0u) {
            for (var s = first; s < min(first + BLOCK, params.seq_k); s++) {
                for (var j = 0u; j < COLS; j++) {
                    let x = value(batch, kv_head, s, column0 + j * TX + tx);
                    let bad = select(vec4(0.0), x, not_finite(x));
                    for (var r = 0u; r < ROWS; r++) {
                        let seen = s <= first + ty * ROWS + r;
                        acc[r * COLS + j] += select(vec4(0.0), bad, seen);
                    }
                }
            }
        }
    }

    // Denominators: the parts of a row's invocations, in order.
    for (var g = 0u; g < ROW_QUADS; g++) {
        tiles[(ty * ROW_QUADS + g) * TX + tx] = below[g];
    }
    workgroupBarrier();
    for (var g = 0u; g < ROW_QUADS; g++) {
        var sum = vec4(0.0);
        for (var x = 0u; x < TX; x++) {
            sum += tiles[(ty * ROW_QUADS + g) * TX + x];
        }
        for (var e = 0u; e < 4u; e++) {
            let s = first + ty * ROWS + 4u * g + e;
            if (s < params.seq_q) {
                // Without any key there is nothing to divide: the output is 0.
                let inverse = select(1.0 / sum[e], 0.0, sum[e] == 0.0);
                let row = row_at(params.out, batch, slot, s);
                for (var j = 0u; j < COLS; j++) {
                    let column = column0 + j * TX + tx;
                    if (column < VALUE_QUADS) {
                        store_out(row + column, acc[(4u * g + e) * COLS + j] * inverse);
                    }
                }
            }
        }
    }
}
