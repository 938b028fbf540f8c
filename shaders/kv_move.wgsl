// Moves rows of a cache to other slots, of the same sequence or of another one.
//
// One workgroup: a chain of rows of one kv head of one move: rows c, c + chains, c + 2 chains and
// so on. Within a sequence a move has as many chains as it goes slots far: rows that could
// overwrite each other are in one chain, which runs in order.
//
// place_of: cache/contiguous.wgsl or paged.wgsl; row_at: strides.wgsl; move_key:
// kv_move/stay.wgsl or turn.wgsl, which stores by cache/write_k_*.wgsl and reads by
// kv_move/read_*.wgsl

override WORKGROUP: u32;

struct Params {
    moves: u32,
    chains: u32,    // most chains of a move
    kv_heads: u32,
    groups_x: u32,  // workgroups along x
    cache: Cache,
    rotary: Rotary,
}

struct Move {
    from_batch: u32,
    from_row: u32,
    to_batch: u32,
    to_row: u32,
    rows: u32,
    chains: u32,
    last_first: u32, // 1: the last row of a chain goes first
    distance: i32,   // positions that keys turn by
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(10) var<storage, read> moves: array<Move>;

fn slot_of(row: u32) -> u32 {
    if (params.cache.rolling != 0u) {
        return row % params.cache.capacity;
    }
    return row;
}

@compute @workgroup_size(WORKGROUP)
fn kv_move(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let linear = group_id.x + group_id.y * params.groups_x;
    let head = linear % params.kv_heads;
    let chain = linear / params.kv_heads % params.chains;
    let n = linear / params.kv_heads / params.chains;
    if (n >= params.moves) {
        return;
    }
    let work = moves[n];
    if (chain >= work.chains) {
        return;
    }
    let count = (work.rows - 1u - chain) / work.chains + 1u;
    for (var j = 0u; j < count; j++) {
        let i = chain + work.chains * select(j, count - 1u - j, work.last_first != 0u);
        let source = place_of(work.from_batch, slot_of(work.from_row + i));
        let to = place_of(work.to_batch, slot_of(work.to_row + i));
        // A bad table names a page that is not there: such a row stays.
        if (max(source.x, to.x) >= params.cache.planes) {
            continue;
        }
        let v_from = row_of(params.cache.v, source, head);
        let v_to = row_of(params.cache.v, to, head);
        for (var e = tid; e < V_ENTRIES; e += WORKGROUP) {
            v_cache[v_to + e] = v_cache[v_from + e];
        }
        move_key(tid, row_of(params.cache.k, source, head), row_of(params.cache.k, to, head),
            work.distance);
    }
}
