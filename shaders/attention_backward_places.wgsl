// First pass of a backward call: what the large passes would need five more bindings for. One
// invocation an entry: where sequence b lies, and the row of the cos/sin table that each query and
// key was turned by.
//
//     workspace  [B, 5]  first query, queries, first key, keys, keys that all queries see
//                [streams, B, S_q]  [streams, B, S_k]  row of the table; bit 31: turned back

@group(0) @binding(6) var<storage, read_write> workspace: array<u32>;
@group(0) @binding(9) var<storage, read> position_ids: array<u32>; // [streams, B, S_q], strided
// [streams, B, S_k] by strides
@group(0) @binding(21) var<storage, read> key_position_ids: array<u32>;

override WORKGROUP: u32;

// Ids have an entry for every row of a tensor; counted positions start anew in every sequence.
fn query_place(batch: u32, stream: u32, s: u32) -> u32 {
    let r = params.rotary;
    let last = r.table_positions - 1u;
    let rows = rows_of(batch);
    if (r.use_ids != 0u) {
        let row = min(rows.first + s, params.total_q - 1u);
        let list = stream * r.ids_stream_stride + batch * r.ids_batch_stride;
        return min(position_ids[list + row], last);
    }
    var place = i32(r.first_position + s);
    if (params.q_among_keys != 0u) {
        place = i32(s) + offset_of(rows.count, keys_of(batch).count);
    }
    return min(u32(abs(place)), last) | select(0u, 0x80000000u, place < 0);
}

fn key_place(batch: u32, stream: u32, s: u32) -> u32 {
    let r = params.k_rotary;
    var place = r.first_position + s;
    if (r.use_ids != 0u) {
        let keys = keys_of(batch);
        let row = keys.first + min(s, max(keys.count, 1u) - 1u);
        place = key_position_ids[stream * r.ids_stream_stride + batch * r.ids_batch_stride + row];
    }
    // With xPos keys have a plane of their own.
    return min(place, r.table_positions - 1u) + (r.planes - 1u) * r.table_positions;
}

fn offset_of(queries: u32, keys: u32) -> i32 {
    return select(params.offset, i32(keys) - i32(queries), params.align_last != 0u);
}

@compute @workgroup_size(WORKGROUP)
fn attention_backward_places(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let i = (group_id.x + group_id.y * params.groups_x) * WORKGROUP + tid;
    if (i < params.batch) {
        let rows = rows_of(i);
        let keys = keys_of(i);
        workspace[5u * i] = rows.first;
        workspace[5u * i + 1u] = rows.count;
        workspace[5u * i + 2u] = keys.first;
        workspace[5u * i + 3u] = keys.count;
        workspace[5u * i + 4u] = prefix_of(i);
    }
    if (!TURNS) {
        return;
    }
    let queries = params.batch * params.seq_q;
    if (i < params.streams * queries) {
        let place = query_place(i % queries / params.seq_q, i / queries, i % params.seq_q);
        workspace[params.q_places_at + i] = place;
    }
    let keys = params.batch * params.seq_k;
    if (i < params.streams * keys) {
        let place = key_place(i % keys / params.seq_k, i / keys, i % params.seq_k);
        workspace[params.k_places_at + i] = place;
    }
}
