// z at every row of a chunk, its own included: from the state before the chunk on, or for queries
// y, from the state behind the chunk back. One invocation: four channels of one chunk of one kv
// head.
//
// state_place: linear_attention.wgsl; z_place: linear_attention_backward.wgsl; rows_entering,
// entering_plain: entering_*.wgsl

override WORKGROUP: u32;

@group(0) @binding(6) var<storage, read_write> workspace: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn running(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let i = (group_id.x + group_id.y * params.groups_x) * WORKGROUP + tid;
    let group = i % GROUPS;
    let chunk = i / GROUPS % params.chunks;
    let kv_head = i / GROUPS / params.chunks % params.kv_heads;
    let batch = i / GROUPS / params.chunks / params.kv_heads;
    if (batch >= params.batch) {
        return;
    }
    let state = state_place(batch, kv_head, chunk);
    var z = workspace[state + FEATURE_DIM * VALUE_QUADS + group];
    for (var n = 0u; n < BLOCK; n++) {
        let s = chunk * BLOCK + select(n, BLOCK - 1u - n, BACK);
        if (s < rows_entering()) {
            z += entering_plain(batch, kv_head, s, group);
            workspace[z_place(batch, kv_head, s, rows_entering()) + group] = z;
        }
    }
}
