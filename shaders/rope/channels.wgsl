// RoPE for rows that cannot be cut into groups of four channels: any even rotary dimension, any
// stride. Same formula as rope.wgsl, one channel at a time.
//
// One invocation: PAIRS_EACH pairs, or TAIL_EACH channels of the tail, of one row of one head. It
// owns all words that it writes.

override WORKGROUP: u32;
override HEAD_BLOCK: u32;       // always 1 here
override PAIRS: u32;
override PAIRS_EACH: u32;       // divides PAIRS
override TAIL: u32;             // channels that are copied; 0 in place
override TAIL_EACH: u32;        // divides TAIL
override BLOCK_PAIRS: u32;      // pairs of one half-split block
override READ_INTERLEAVED: bool;
override WRITE_INTERLEAVED: bool;

// Channels of pair j.
fn members(j: u32, interleaved: bool) -> vec2<u32> {
    if (interleaved) {
        return vec2(2u * j, 2u * j + 1u);
    }
    let a = j + j / BLOCK_PAIRS * BLOCK_PAIRS;
    return vec2(a, a + BLOCK_PAIRS);
}

@compute @workgroup_size(WORKGROUP)
fn rope(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let group = group_id.x + group_id.y * params.groups_x;
    let items = PAIRS / PAIRS_EACH;
    let units = items + TAIL / TAIL_EACH;
    let place = group % params.blocks * WORKGROUP + tid;
    let s = place / units;
    let u = place % units;
    let head = group / params.blocks % params.head_blocks * HEAD_BLOCK;
    let batch = group / params.blocks / params.head_blocks;
    if (batch >= params.batch || s >= params.seq) {
        return;
    }
    let row = row_of(batch, head, s);
    if (u >= items) {
        let first = 2u * PAIRS + (u - items) * TAIL_EACH;
        for (var i = first; i < first + TAIL_EACH; i++) {
            store_channel(row.is_k, row.write + i, load_channel(row.is_k, row.read + i));
        }
        return;
    }
    let plane = select(params.plane_q, params.plane_k, row.is_k);
    for (var j = u * PAIRS_EACH; j < (u + 1u) * PAIRS_EACH; j++) {
        let t = cos_sin_of(plane, batch, s, j) * params.gain * vec2(1.0, params.direction);
        let read = members(j, READ_INTERLEAVED);
        let a = load_channel(row.is_k, row.read + read.x);
        let b = load_channel(row.is_k, row.read + read.y);
        let write = members(j, WRITE_INTERLEAVED);
        store_channel(row.is_k, row.write + write.x, a * t.x - b * t.y);
        store_channel(row.is_k, row.write + write.y, b * t.x + a * t.y);
    }
}
