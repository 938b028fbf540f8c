// RoFormer linear attention (arXiv 2104.09864, eq. 19): rotation in the numerator alone.
//
//     out_i = Σ_j (R_i φ(q_i))ᵀ (R_j φ(k_j)) v_j  /  Σ_j φ(q_i)ᵀ φ(k_j)
//
// What its passes share: sizes, the places of channels, features and their rotation. A chunk is
// BLOCK positions. Its keys enter the state (S, z), S = Σ R_j φ(k_j) v_jᵀ and z = Σ φ(k_j):
//     sums      the state that each chunk adds
//     scan      the state before each chunk, by adding up in order
//     outputs   of each chunk, from the state before it and its own keys
//
// TX × TY invocations; each owns ROWS rows and 4 COLS columns of a BLOCK × BLOCK tile. A group is
// four features: those of the units 2g and 2g + 1, where a unit is a rotated pair or two channels
// of the tail.

const THREADS: u32 = TX * TY;
const BLOCK: u32 = TY * ROWS;           // rows of a tile, and its columns
const BLOCK_QUADS: u32 = BLOCK / 4u;    // = TX · COLS
const ROW_QUADS: u32 = ROWS / 4u;
const GROUPS: u32 = FEATURE_DIM / 4u;
const VALUE_QUADS: u32 = VALUE_DIM / 4u;
const VALUE_BLOCKS: u32 = (VALUE_QUADS + BLOCK_QUADS - 1u) / BLOCK_QUADS;
const STATE_QUADS: u32 = FEATURE_DIM * VALUE_QUADS + GROUPS; // S, then z

// 0, which a compiler does not know where the plan wants compact code: loops with it in their
// bounds stay loops then.
fn zero() -> u32 {
    return select(0u, params.resume / 2u, COMPACT);
}

// Where the state before chunk `chunk` of a kv head lies in the workspace; behind the last chunk
// is the state after all of them.
fn state_place(batch: u32, kv_head: u32, chunk: u32) -> u32 {
    let plane = batch * params.kv_heads + kv_head;
    return states_at() + (plane * (params.chunks + 1u) + chunk) * STATE_QUADS;
}

fn pair_channels(pair: u32, interleaved: bool) -> vec2<u32> {
    if (interleaved) {
        return vec2(2u * pair, 2u * pair + 1u);
    }
    var a = pair;
    if (BLOCK_PAIRS < PAIRS) {
        a += pair / BLOCK_PAIRS * BLOCK_PAIRS;
    }
    return vec2(a, a + BLOCK_PAIRS);
}

// Channels that the features of a unit are read from.
fn channels_read(unit: u32) -> vec2<u32> {
    return pair_channels(unit, READ_INTERLEAVED || unit >= PAIRS);
}

// Their channels in S, as a rotation would write them.
fn channels_written(unit: u32) -> vec2<u32> {
    return pair_channels(unit, WRITE_INTERLEAVED || unit >= PAIRS);
}

fn rotate(x: vec2<f32>, plane: u32, batch: u32, s: u32, unit: u32) -> vec2<f32> {
    if (unit >= PAIRS) {
        return x;
    }
    let t = pair_cos_sin(plane, batch, s, unit);
    return vec2(x.x * t.x - x.y * t.y, x.y * t.x + x.x * t.y);
}
