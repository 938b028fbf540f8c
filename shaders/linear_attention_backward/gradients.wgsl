// dq, dk or dv of one chunk: its rows against the state before it (dk, dv: the gradient of the
// state behind it), and under a causal mask against the chunk's other side.
//
// One workgroup: BLOCK own rows and BLOCK columns of one query or kv head; it walks over the output
// heads that read it. In rounds of one head, or of the state alone,
//     acc += own · state + mask(own · walkedᵀ) · columns
// Tiles in workgroup memory hold vectors of four rows or four columns:
//     own, walked  [entry of what is summed over, row quad]
//     state        [entry, column quad]
//     weights      [walked row, row quad]
//     columns      [walked row, column quad]
//
// INNER_GROUPS, COLUMN_QUADS, own, walked, column_of, state_block, store: dq.wgsl, dk.wgsl or
// dv.wgsl

override WORKGROUP: u32; // THREADS

@group(0) @binding(6) var<storage, read> workspace: array<vec4<f32>>;

const COLUMN_BLOCKS: u32 = (COLUMN_QUADS + BLOCK_QUADS - 1u) / BLOCK_QUADS;
const STEP_GROUPS: u32 = 4u;                     // groups of four entries staged at once
const KEY_STEP: u32 = 16u;                       // walked rows whose weights go round at once
const TILE: u32 = 4u * STEP_GROUPS * BLOCK_QUADS;
const OWN: u32 = 0u;
const STATE: u32 = TILE;
const WALKED: u32 = 2u * TILE;
const WEIGHTS: u32 = 0u;
const COLUMNS: u32 = KEY_STEP * BLOCK_QUADS;
// Keys begin with the state, to which all heads have been added.
const STATE_ROUNDS: u32 = select(0u, 1u, KEYS_OWN);

struct Work {
    batch: u32,
    own_head: u32,
    kv_head: u32,
    slot: u32,  // output head of the round
    state: u32, // place in the workspace
}

var<workgroup> tiles: array<vec4<f32>, 3u * TILE>;

fn own_rows() -> u32 {
    return select(params.seq_q, params.seq_k, KEYS_OWN);
}

fn walked_rows() -> u32 {
    return select(params.seq_k, params.seq_q, KEYS_OWN);
}

// Whether an output head reads what the workgroup owns.
fn reads(work: Work, head: Head) -> bool {
    return work.own_head == select(head.source, head.source / params.group, KEYS_OWN);
}

// Groups of four entries of four rows, as vectors of four rows.
fn put(at: u32, x: mat4x4<f32>) {
    let rows = transpose(x);
    for (var e = 0u; e < 4u; e++) {
        tiles[at + e * BLOCK_QUADS] = rows[e];
    }
}

fn own_block(work: Work, s: u32, g: u32) -> mat4x4<f32> {
    var x: mat4x4<f32>;
    for (var r = 0u; r < 4u; r++) {
        x[r] = vec4(0.0);
        if (s + r < own_rows()) {
            x[r] = own(work, s + r, g);
        }
    }
    return x;
}

fn walked_block(work: Work, s: u32, g: u32) -> mat4x4<f32> {
    var x: mat4x4<f32>;
    for (var r = 0u; r < 4u; r++) {
        x[r] = vec4(0.0);
        if (s + r < walked_rows()) {
            x[r] = walked(work, s + r, g);
        }
    }
    return x;
}

@compute @workgroup_size(WORKGROUP)
fn gradients(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let linear = group_id.x + group_id.y * params.groups_x;
    let own_heads = select(params.q_heads, params.kv_heads, KEYS_OWN);
    if (linear >= COLUMN_BLOCKS * params.tiles * own_heads * params.batch) {
        return;
    }
    let column0 = linear % COLUMN_BLOCKS * BLOCK_QUADS;
    let tile = linear / COLUMN_BLOCKS % params.tiles;
    var work: Work;
    work.own_head = linear / COLUMN_BLOCKS / params.tiles % own_heads;
    work.batch = linear / COLUMN_BLOCKS / params.tiles / own_heads;
    work.kv_head = select(work.own_head / params.group, work.own_head, KEYS_OWN);
    work.state = state_place(work.batch, work.kv_head, select(params.chunks, tile, CAUSAL));
    let first = tile * BLOCK;
    let tx = tid % TX;
    let ty = tid / TX;
    let more = zero();

    var acc: array<vec4<f32>, ROWS * COLS>;
    for (var i = 0u; i < ROWS * COLS; i++) {
        acc[i] = vec4(0.0);
    }
    let rounds = select(0u, params.heads_out, CAUSAL || !KEYS_OWN) + STATE_ROUNDS;
    for (var round = 0u; round < rounds; round++) {
        let from_state = !KEYS_OWN || round == 0u;
        let from_rows = CAUSAL && round >= STATE_ROUNDS;
        work.slot = max(round, STATE_ROUNDS) - STATE_ROUNDS;
        if (round >= STATE_ROUNDS && !reads(work, heads[work.slot])) {
            continue;
        }
        var weights: array<vec4<f32>, ROWS * COLS>; // by walked rows
        for (var i = 0u; i < ROWS * COLS; i++) {
            weights[i] = vec4(0.0);
        }
        for (var g0 = 0u; g0 < INNER_GROUPS; g0 += STEP_GROUPS) {
            let groups = min(STEP_GROUPS, INNER_GROUPS - g0);
            let blocks = groups * BLOCK_QUADS;
            for (var i = tid; i < 3u * blocks; i += THREADS) {
                let quad = i % BLOCK_QUADS;
                let g = i % blocks / BLOCK_QUADS;
                let at = 4u * g * BLOCK_QUADS + quad;
                let s = first + 4u * quad;
                if (i < blocks) {
                    put(OWN + at, own_block(work, s, g0 + g));
                } else if (i < 2u * blocks) {
                    if (from_state) {
                        let column = min(column0 + quad, COLUMN_QUADS - 1u);
                        put(STATE + at, state_block(work, g0 + g, column));
                    }
                } else if (from_rows) {
                    put(WALKED + at, walked_block(work, s, g0 + g));
                }
            }
            workgroupBarrier(); // rows and state are staged
            for (var f = 0u; f < 4u * groups + more; f++) {
                for (var g = 0u; g < ROW_QUADS; g++) {
                    let x = tiles[OWN + f * BLOCK_QUADS + ty * ROW_QUADS + g];
                    for (var j = 0u; j < COLS; j++) {
                        let at = 4u * g * COLS + j;
                        let at_columns = f * BLOCK_QUADS + j * TX + tx;
                        if (from_state) {
                            let y = tiles[STATE + at_columns];
                            acc[at] = fma(vec4(x.x), y, acc[at]);
                            acc[at + COLS] = fma(vec4(x.y), y, acc[at + COLS]);
                            acc[at + 2u * COLS] = fma(vec4(x.z), y, acc[at + 2u * COLS]);
                            acc[at + 3u * COLS] = fma(vec4(x.w), y, acc[at + 3u * COLS]);
                        }
                        if (from_rows) {
                            let y = tiles[WALKED + at_columns];
                            weights[at] = fma(vec4(x.x), y, weights[at]);
                            weights[at + COLS] = fma(vec4(x.y), y, weights[at + COLS]);
                            weights[at + 2u * COLS] = fma(vec4(x.z), y, weights[at + 2u * COLS]);
                            weights[at + 3u * COLS] = fma(vec4(x.w), y, weights[at + 3u * COLS]);
                        }
                    }
                }
            }
            workgroupBarrier(); // and read, before what is staged next
        }
        if (!from_rows) {
            continue;
        }
        // Keys see queries from their own on, queries keys up to their own.
        for (var i = 0u; i < ROWS * COLS; i++) {
            let row = vec4(ty * ROWS + i / COLS);
            let s = vec4(4u * (i % COLS * TX + tx)) + vec4(0u, 1u, 2u, 3u);
            weights[i] = select(vec4(0.0), weights[i], select(s <= row, s >= row, vec4(KEYS_OWN)));
        }
        // Weights · columns, KEY_STEP walked rows at a time.
        for (var s0 = 0u; s0 < BLOCK + more; s0 += KEY_STEP) {
            for (var j = 0u; j < COLS; j++) {
                let quad = j * TX + tx;
                if (4u * quad >= s0 && 4u * quad < s0 + KEY_STEP) {
                    for (var g = 0u; g < ROW_QUADS; g++) {
                        let w = 4u * g * COLS + j;
                        let at = WEIGHTS + (4u * quad - s0) * BLOCK_QUADS + ty * ROW_QUADS + g;
                        let block = mat4x4<f32>(
                            weights[w],
                            weights[w + COLS],
                            weights[w + 2u * COLS],
                            weights[w + 3u * COLS],
                        );
                        put(at, block);
                    }
                }
            }
            for (var i = tid; i < KEY_STEP * BLOCK_QUADS; i += THREADS) {
                let s = first + s0 + i / BLOCK_QUADS;
                let column = column0 + i % BLOCK_QUADS;
                var x = vec4(0.0);
                if (s < walked_rows() && column < COLUMN_QUADS) {
                    x = column_of(work, s, column);
                }
                tiles[COLUMNS + i] = x;
            }
            workgroupBarrier(); // weights and columns are staged
            for (var s = 0u; s < KEY_STEP + more; s++) {
                for (var g = 0u; g < ROW_QUADS; g++) {
                    let w = tiles[WEIGHTS + s * BLOCK_QUADS + ty * ROW_QUADS + g];
                    for (var j = 0u; j < COLS; j++) {
                        let x = tiles[COLUMNS + s * BLOCK_QUADS + j * TX + tx];
                        let at = 4u * g * COLS + j;
                        acc[at] = fma(vec4(w.x), x, acc[at]);
                        acc[at + COLS] = fma(vec4(w.y), x, acc[at + COLS]);
                        acc[at + 2u * COLS] = fma(vec4(w.z), x, acc[at + 2u * COLS]);
                        acc[at + 3u * COLS] = fma(vec4(w.w), x, acc[at + 3u * COLS]);
                    }
                }
            }
            workgroupBarrier(); // and read, before the next rows
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let s = first + ty * ROWS + r;
        if (s < own_rows()) {
            for (var j = 0u; j < COLS; j++) {
                let column = column0 + j * TX + tx;
                if (column < COLUMN_QUADS) {
                    store(work, s, column, acc[r * COLS + j]);
                }
            }
        }
    }
}
