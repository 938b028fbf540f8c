// Sizes, parameters and bindings of decode.wgsl.

override WORKGROUP: u32;                   // THREADS; an override, see plan/shader.rs
const BLOCK_K: u32 = THREADS * KEYS_EACH;  // keys a step
const KEY_LANES: u32 = 1u << KEY_LEVELS;  // invocations that share their keys in Q·Kᵀ
const KEYS_SHARED: u32 = KEYS_EACH * KEY_LANES; // keys a step that an invocation reads of
const UNITS_EACH: u32 = (UNITS + KEY_LANES - 1u) / KEY_LANES; // units that it reads of each
const STATES: u32 = STREAMS * ROWS;
const VECS: u32 = (STATES + 3u) / 4u;      // states in vectors of four
const V_QUADS: u32 = VALUE_DIM / 4u;
const AT_ONCE: u32 = min(STATES, SHARED / (COLS * THREADS)); // states that the tile has room for
const Q_OFFERS: u32 = (2u * ROWS + SUB - 1u) / SUB; // vectors of a unit of q that a lane passes on

// Where lengths and block table start, where they share a buffer.
struct Lists {
    kv_lens: u32,
    block_table: u32,
    pad0: u32,
    pad1: u32,
}

struct Params {
    batch: u32,
    seq_q: u32,
    heads_out: u32,
    kv_heads: u32,
    groups_x: u32,       // workgroups along x
    row_blocks: u32,     // blocks of ROWS rows of a kv head
    splits: u32,
    head_rows: u32,       // rows of the table of head rows a kv head
    causal: u32,         // 1: row i sees the keys up to its own
    window: u32,         // a row sees keys less than this away from its own place; 0: all
    q_scale: f32,        // on q, so that scores come in base 2, or as the softcap takes them
    softcap: f32,        // in base 2; 0: none
    minus_infinity: f32,
    sums_at: u32,        // where maxima and sums start in the workspace
    among_keys: u32,     // 1: positions follow from the lengths
    zero: u32,           // 0, unknown to a compiler: loops with it in their bounds stay loops
    lists: Lists,
    q: Strides,
    out: Strides,
    cache: Cache,
    bias: Strides,       // of single entries
    rotary: Rotary,
}

// Four channels of an output row.
struct Output {
    split: u32,
    batch: u32,
    head: u32,
    row: u32,
    column: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

var<workgroup> tile: array<vec4<f32>, SHARED>;
var<workgroup> value_rows: array<u32, BLOCK_K>;
var<workgroup> maxima: array<vec4<f32>, VECS>;
var<workgroup> totals: array<vec4<f32>, VECS>;
