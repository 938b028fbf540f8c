// From what each chunk adds to the state before each chunk: an exclusive sum over the chunks, in
// their order and from the state that the call starts with. So a sequence in several calls, cut
// between chunks, makes the same additions as in one. BACK: from the last chunk to the first.
//
// One invocation: four entries of the state of one kv head, over all chunks.
//
// state_before, store_state: state.wgsl or state_none.wgsl

override WORKGROUP: u32;

// [B, H_kv, chunks + 1, STATE_QUADS]
@group(0) @binding(6) var<storage, read_write> workspace: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn scan(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let linear = (group_id.x + group_id.y * params.groups_x) * WORKGROUP + tid;
    let plane = linear / STATE_QUADS;
    let i = linear % STATE_QUADS;
    if (plane >= params.batch * params.kv_heads) {
        return;
    }
    var sum = state_before(plane, i);
    let place = states_at() + plane * (params.chunks + 1u) * STATE_QUADS + i;
    for (var n = 0u; n < params.chunks; n++) {
        let at = place + select(n, params.chunks - 1u - n, BACK) * STATE_QUADS;
        let added = workspace[at];
        workspace[at] = sum;
        sum += added;
    }
    workspace[place + params.chunks * STATE_QUADS] = sum;
    store_state(plane, i, sum);
}
