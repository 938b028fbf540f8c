// What follows from the constants of a plan, and the tiles of workgroup memory. They come before
// any other of its variables: drivers place these in their order, and matrices lie at multiples of
// 16 bytes.
//
//     half_tile    k [key, first members | second members] under p [stream, query, key], then v
//                  [key, channel] or, VALUE_TURNED, [channel, key], then, Q_STAYS, low parts of q
//                  as k; at first q as k
//
// each of them as often as it has parts (parts.wgsl), the high parts first;
//
//     single_tile  s [query, key] of one stream, or a run of fragments of o
//
// A quad is four neighbouring numbers. It is an array of its own, so that one index is checked for
// all four; a matrix is loaded from the first of them.

override WORKGROUP: u32;                  // THREADS; an override, see plan/shader.rs
const THREADS: u32 = LANES * SUBGROUPS;
const BLOCK_Q: u32 = M * SUBGROUPS;
const KEY_STEP: u32 = 1u;                 // between the keys of a quad
const PARTS: u32 = LANES / M;             // invocations that share a row in the softmax
const M4: u32 = M / 4u;
const K4: u32 = BLOCK_K / 4u;
const COLS: u32 = K4 / PARTS;             // quads of keys of an invocation in the softmax
const UNITS: u32 = PAIR_QUADS + TAIL_QUADS;
const PAIR_FRAGMENTS: u32 = (PAIR_QUADS + M4 - 1u) / M4; // of first members, and of second ones
const TAIL_FRAGMENTS: u32 = (TAIL_QUADS + M4 - 1u) / M4;
const Q_FRAGMENTS: u32 = PAIR_FRAGMENTS + TAIL_FRAGMENTS;
const HALF_QUADS: u32 = Q_FRAGMENTS * M4; // of half a row of q or k, padding included
// What fragments of a query there are: of its parts, and of its high one shrunk, for products with
// low parts of keys, where their sums cannot be shrunk instead.
const Q_SETS: u32 = Q_PARTS + select(0u, 1u, SHRUNK_STAGED && K_PARTS == 2u);
const Q_LOW: u32 = (Q_PARTS - 1u) * Q_FRAGMENTS;
const Q_SHRUNK: u32 = select(0u, Q_PARTS * Q_FRAGMENTS, Q_SETS > Q_PARTS);
const P_PARTS: u32 = select(1u, 2u, X3);
const P_SETS: u32 = P_PARTS + select(0u, 1u, SHRUNK_STAGED && V_PARTS == 2u);
const P_SHRUNK: u32 = (P_SETS - 1u) * STREAMS;
const K_FRAGMENTS: u32 = BLOCK_K / M;     // of the keys of a step
const V_FRAGMENTS: u32 = V_RUNS * K_FRAGMENTS; // of the channels of v, padding included
const DV4: u32 = V_FRAGMENTS * M4;
// Pitches in quads: an odd number of 16-byte pieces where that can be, so that eight rows of a
// fragment meet different banks.
const K_ROW: u32 = 2u * HALF_QUADS + 2u;
const P_ROW: u32 = K4 + 2u;
const S_ROW: u32 = K4 + 2u;
const V_ROW: u32 = select(DV4 + 2u, K4 + 2u, VALUE_TURNED);
const K_QUADS: u32 = BLOCK_K * K_ROW;
const P_QUADS: u32 = STREAMS * BLOCK_Q * P_ROW;
const V_QUADS: u32 = select(BLOCK_K, 4u * DV4, VALUE_TURNED) * V_ROW;
const V_AT: u32 = max(K_PARTS * K_QUADS, P_SETS * P_QUADS);
const Q_AT: u32 = V_AT + V_PARTS * V_QUADS;
const Q_QUADS: u32 = BLOCK_Q * K_ROW;

var<workgroup> half_tile: array<array<f16, 4>, max(Q_AT + select(0u, Q_QUADS, Q_STAYS), Q_QUADS)>;
var<workgroup> single_tile: array<array<f32, 4>, BLOCK_Q * S_ROW>;
// Maxima and sums of the invocations that share a row.
var<workgroup> shares: array<vec2<f32>, THREADS>;

fn put_half(quad: u32, x: vec4<f32>) {
    let y = vec4<f16>(x);
    half_tile[quad][0] = y.x;
    half_tile[quad][1] = y.y;
    half_tile[quad][2] = y.z;
    half_tile[quad][3] = y.w;
}

fn single(quad: u32) -> vec4<f32> {
    return vec4(
        single_tile[quad][0],
        single_tile[quad][1],
        single_tile[quad][2],
        single_tile[quad][3],
    );
}

fn put_single(quad: u32, x: vec4<f32>) {
    single_tile[quad][0] = x.x;
    single_tile[quad][1] = x.y;
    single_tile[quad][2] = x.z;
    single_tile[quad][3] = x.w;
}
