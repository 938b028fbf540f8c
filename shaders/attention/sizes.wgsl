// What follows from the constants of a plan.

override WORKGROUP: u32;                     // THREADS; an override, see plan/shader.rs
const THREADS: u32 = TX * TY;
const ROWS: u32 = 2u * ROW_PAIRS;            // queries an invocation
const BLOCK_QP: u32 = ROW_PAIRS * TY;        // row pairs a tile
const BLOCK_Q: u32 = 2u * BLOCK_QP;
const BLOCK_KQ: u32 = KEY_QUADS * TX;        // key quads a tile
const BLOCK_K: u32 = 4u * BLOCK_KQ;
const KEY_STEP: u32 = BLOCK_KQ;              // between the keys of a quad
const UNITS: u32 = PAIR_QUADS + TAIL_QUADS;  // groups of four pairs (eight channels) a head
const STATES: u32 = STREAMS * ROWS;          // softmax states an invocation
const STATE_VECS: u32 = (STATES + 3u) / 4u;
