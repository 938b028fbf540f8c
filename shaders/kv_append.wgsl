// Appends new keys and values to a cache: rotates K, converts, and finds each row's place.
//
// One workgroup: WORKGROUP places. One invocation: one of PIECES places of one new row, a piece of
// K (what shares a scale; of a float cache four channels, or four pairs that rotate) and every
// PIECES-th piece of V, in HEADS_EACH kv heads, so that one fetch of cos and sin serves all of
// them.
//
// place_of: cache/contiguous.wgsl or paged.wgsl; row_at: strides.wgsl; append_key, turn_of:
// kv_append/pieces*.wgsl; key_quad: kv_append/ready.wgsl or rotate.wgsl; store_key, store_value:
// cache/write_*.wgsl; load_k, load_v: io/*.wgsl

override WORKGROUP: u32;
override HEAD_DIM: u32;
override VALUE_DIM: u32;
override K_PIECES: u32; // pieces of a row
override V_PIECES: u32;
override PIECES: u32;
override HEADS_EACH: u32;

struct Params {
    batch: u32,
    seq: u32,       // new rows of a sequence, at most
    kv_heads: u32,
    groups_x: u32,  // workgroups along x
    ragged: u32,    // 1: new rows of all sequences lie one behind the other, see lens
    rows: u32,      // ragged: rows of all sequences
    plane_k: u32,   // table plane of k
    among_keys: u32, // 1: positions follow from the lengths
    k: Strides,     // new rows
    v: Strides,
    cache: Cache,
    rotary: Rotary,
}

@group(0) @binding(0) var<uniform> params: Params;
// [B] rows of each sequence before the call; ragged: then [B + 1] where its new rows start and end
@group(0) @binding(10) var<storage, read> lens: array<u32>;

// A new row of one head.
struct Source {
    k: u32,     // its first entry in k
    v: u32,
    batch: u32,
    s: u32,     // as the rotation counts rows
    turn: CosSin, // of the piece, where its pairs are whole
}

fn value_quad(source: Source, quad: u32) -> vec4<f32> {
    return load_v(source.v + quad);
}

@compute @workgroup_size(WORKGROUP)
fn kv_append(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let item = (group_id.x + group_id.y * params.groups_x) * WORKGROUP + tid;
    let piece = item % PIECES;
    let row = item / PIECES;
    let i = row % params.seq;
    let head_blocks = (params.kv_heads + HEADS_EACH - 1u) / HEADS_EACH;
    let head_first = row / params.seq % head_blocks * HEADS_EACH;
    let batch = row / params.seq / head_blocks;
    if (batch >= params.batch) {
        return;
    }

    var count = params.seq;
    var input = vec2(batch, i);
    if (params.ragged != 0u) {
        let start = min(lens[params.batch + batch], params.rows);
        let end = clamp(lens[params.batch + batch + 1u], start, params.rows);
        count = min(end - start, params.seq);
        input = vec2(0u, start + i);
    }
    if (i >= count) {
        return;
    }
    // What a bad length asks for beyond the sequence's own slots is left out.
    let capacity = params.cache.capacity;
    let length = lens[batch];
    var slot = length + i;
    if (params.cache.rolling != 0u) {
        // Of two rows for one slot, the later one stays.
        if (count - i > capacity) {
            return;
        }
        slot = slot % capacity;
    } else if (length >= capacity || i >= capacity - length) {
        return;
    }
    let place = place_of(batch, slot);
    if (place.x >= params.cache.planes) {
        return;
    }

    // Ids are given row by row.
    var s = select(i, input.y, params.rotary.use_ids != 0u);
    if (params.among_keys != 0u) {
        s = length + i;
    }
    var source: Source;
    source.batch = batch;
    source.s = s;
    if (piece < K_PIECES) {
        source.turn = turn_of(batch, s, piece);
    }
    let head_end = min(head_first + HEADS_EACH, params.kv_heads);
    for (var head = head_first; head < head_end; head++) {
        source.k = row_at(params.k, input.x, head, input.y);
        source.v = row_at(params.v, input.x, head, input.y);
        if (piece < K_PIECES) {
            append_key(row_of(params.cache.k, place, head), source, piece);
        }
        for (var v = piece; v < V_PIECES; v += PIECES) {
            store_value(row_of(params.cache.v, place, head), source, v);
        }
    }
}
