// A tile of real and imaginary scores, before scale and mask.
//
// With the members of a rotated pair a|b:
//     S_re = Qa·Ka + Qb·Kb      S_im = Qb·Ka − Qa·Kb
// TX × TY invocations; invocation (tx, ty) owns ROWS queries and 4 COLS keys of BLOCK × BLOCK.
// Tiles in workgroup memory hold four rows or four keys a vector: [unit, a|b, quad], where a unit
// is a rotated pair or two channels of the tail, which add to S_re alone.

override WORKGROUP: u32; // THREADS
const THREADS: u32 = TX * TY;
const BLOCK: u32 = TY * ROWS;
const BLOCK_QUADS: u32 = BLOCK / 4u;    // = TX · COLS
const ROW_QUADS: u32 = ROWS / 4u;
const UNITS: u32 = HEAD_DIM / 2u;         // STEP of them are staged at once
const STATES: u32 = ROWS * COLS;

struct Params {
    batch: u32,
    heads: u32,            // chosen ones
    q_heads: u32,          // all
    group: u32,            // query heads a key head
    groups_x: u32,         // workgroups along x
    q_tiles: u32,
    k_tiles: u32,
    seq_q: u32,
    q_first: u32,          // the window
    q_count: u32,
    k_first: u32,
    k_count: u32,
    position: i32,         // of query 0 among the keys
    causal: u32,
    distance: u32,         // up to which mass is near
    probabilities: u32,    // 1: exp(score − lse)
    step: u32,             // entries from key to key
    component: u32,        // entries from the real to the imaginary part
    scale: f32,
    minus_infinity: f32,
    q: Strides,
    k: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> chosen: array<u32>; // query heads

var<workgroup> q_tile: array<vec4<f32>, 2u * STEP * BLOCK_QUADS>;
var<workgroup> k_tile: array<vec4<f32>, 2u * STEP * BLOCK_QUADS>;

fn unit_channels(unit: u32) -> vec2<u32> {
    if (INTERLEAVED || unit >= PAIRS) {
        return vec2(2u * unit, 2u * unit + 1u);
    }
    var a = unit;
    if (BLOCK_PAIRS < PAIRS) {
        a += unit / BLOCK_PAIRS * BLOCK_PAIRS;
    }
    return vec2(a, a + BLOCK_PAIRS);
}

fn q_unit(row: u32, c: vec2<u32>) -> vec2<f32> {
    return vec2(load_q(row + c.x / 4u)[c.x % 4u], load_q(row + c.y / 4u)[c.y % 4u]);
}

fn k_unit(row: u32, c: vec2<u32>) -> vec2<f32> {
    return vec2(load_k(row + c.x / 4u)[c.x % 4u], load_k(row + c.y / 4u)[c.y % 4u]);
}

// Queries q0 .. and keys k0 .. of the window; those past its end repeat the last one.
fn score_tile(
    tid: u32,
    batch: u32,
    q_head: u32,
    q0: u32,
    k0: u32,
    re: ptr<function, array<vec4<f32>, STATES>>,
    im: ptr<function, array<vec4<f32>, STATES>>,
) {
    let tx = tid % TX;
    let ty = tid / TX;
    for (var i = 0u; i < STATES; i++) {
        (*re)[i] = vec4(0.0);
        (*im)[i] = vec4(0.0);
    }
    let q_base = params.q.offset + batch * params.q.batch + q_head * params.q.head;
    let k_base = params.k.offset + batch * params.k.batch + q_head / params.group * params.k.head;
    for (var unit0 = 0u; unit0 < UNITS; unit0 += STEP) {
        let units = min(STEP, UNITS - unit0);
        for (var i = tid; i < units * BLOCK_QUADS; i += THREADS) {
            let quad = i % BLOCK_QUADS;
            let c = unit_channels(unit0 + i / BLOCK_QUADS);
            let at = i / BLOCK_QUADS * 2u * BLOCK_QUADS + quad;
            var x: array<vec2<f32>, 4>;
            for (var r = 0u; r < 4u; r++) {
                let row = params.q_first + min(q0 + 4u * quad + r, params.q_count - 1u);
                x[r] = q_unit(q_base + row * params.q.row, c);
            }
            q_tile[at] = vec4(x[0].x, x[1].x, x[2].x, x[3].x);
            q_tile[at + BLOCK_QUADS] = vec4(x[0].y, x[1].y, x[2].y, x[3].y);
            for (var r = 0u; r < 4u; r++) {
                let row = params.k_first + min(k0 + 4u * quad + r, params.k_count - 1u);
                x[r] = k_unit(k_base + row * params.k.row, c);
            }
            k_tile[at] = vec4(x[0].x, x[1].x, x[2].x, x[3].x);
            k_tile[at + BLOCK_QUADS] = vec4(x[0].y, x[1].y, x[2].y, x[3].y);
        }
        workgroupBarrier(); // queries and keys are staged
        for (var u = 0u; u < units; u++) {
            let turns = unit0 + u < PAIRS;
            for (var g = 0u; g < ROW_QUADS; g++) {
                let qa = q_tile[2u * u * BLOCK_QUADS + ty * ROW_QUADS + g];
                let qb = q_tile[(2u * u + 1u) * BLOCK_QUADS + ty * ROW_QUADS + g];
                for (var j = 0u; j < COLS; j++) {
                    let ka = k_tile[2u * u * BLOCK_QUADS + j * TX + tx];
                    let kb = k_tile[(2u * u + 1u) * BLOCK_QUADS + j * TX + tx];
                    for (var r = 0u; r < 4u; r++) {
                        let at = (4u * g + r) * COLS + j;
                        let a = vec4(qa[r]);
                        let b = vec4(qb[r]);
                        (*re)[at] = fma(b, kb, fma(a, ka, (*re)[at]));
                        if (turns) {
                            (*im)[at] = fma(-a, kb, fma(b, ka, (*im)[at]));
                        }
                    }
                }
            }
        }
        workgroupBarrier(); // and read, before the next units
    }
}

// Keys 0 .. n − 1 of the sequence are the ones that a query row of the sequence sees.
fn seen(row: u32) -> u32 {
    let all = params.k_first + params.k_count;
    if (params.causal == 0u) {
        return all;
    }
    return min(all, u32(max(i32(row) + params.position + 1, 0)));
}
