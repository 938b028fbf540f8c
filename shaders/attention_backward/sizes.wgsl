// What follows from the constants of a plan. A workgroup owns BLOCK_R rows and walks over BLOCK_C
// of the other side at a time.

override WORKGROUP: u32;                     // THREADS; overridable: wgpu then heeds the checks
const THREADS: u32 = TX * TY;
const ROWS: u32 = 2u * ROW_PAIRS;            // own rows an invocation
const BLOCK_RP: u32 = ROW_PAIRS * TY;        // row pairs a tile
const BLOCK_R: u32 = 2u * BLOCK_RP;
const BLOCK_CQ: u32 = COL_QUADS * TX;        // quads of walked rows a tile
const BLOCK_C: u32 = 4u * BLOCK_CQ;
const UNITS: u32 = PAIR_QUADS + TAIL_QUADS;  // groups of four pairs (eight channels) a head
const VALUE_UNITS: u32 = VALUE_DIM / 8u;
const STATES: u32 = STREAMS * ROWS;          // rows of weights an invocation
const MODIFIED: bool = SOFTCAP || ALIBI || BIAS || HOOKS;
// Of the products whose sign depends on which side is the complex conjugate.
const SIGN: f32 = select(1.0, -1.0, KEYS_OWN);
