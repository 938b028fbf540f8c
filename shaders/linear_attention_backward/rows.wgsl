// 1 / den and r of every output row, one invocation each. A row whose denominator is 0 saw no key:
// it gives no gradient.
//
// row_at: strides.wgsl; state_place: linear_attention.wgsl; row_place, z_place:
// linear_attention_backward.wgsl; feature_map: elu.wgsl; load_q, load_d_out, load_out: io/*.wgsl

override WORKGROUP: u32;

@group(0) @binding(6) var<storage, read_write> workspace: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn rows(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let i = (group_id.x + group_id.y * params.groups_x) * WORKGROUP + tid;
    let s = i % params.seq_q;
    let slot = i / params.seq_q % params.heads_out;
    let batch = i / params.seq_q / params.heads_out;
    if (batch >= params.batch) {
        return;
    }
    let source = heads[slot].source;
    let kv_head = source / params.group;
    var z = state_place(batch, kv_head, params.chunks) + FEATURE_DIM * VALUE_QUADS;
    if (CAUSAL) {
        z = z_place(batch, kv_head, s, params.seq_k);
    }
    let q_row = row_at(params.q, batch, source, s);
    var below = vec4(0.0);
    for (var quad = 0u; quad < GROUPS + zero(); quad++) {
        let x = load_q(q_row + quad);
        let f = vec4(feature_map(x.x), feature_map(x.y), feature_map(x.z), feature_map(x.w));
        below = fma(f, workspace[z + quad], below);
    }
    let out_row = row_at(params.out, batch, slot, s);
    let d_row = row_at(params.d_out, batch, slot, s);
    var along = vec4(0.0);
    for (var quad = 0u; quad < VALUE_QUADS + zero(); quad++) {
        along = fma(load_d_out(d_row + quad), load_out(out_row + quad), along);
    }
    let sum = (below.x + below.y) + (below.z + below.w);
    let inverse = select(1.0 / sum, 0.0, sum == 0.0);
    let r = -((along.x + along.y) + (along.z + along.w)) * inverse;
    workspace[row_place(batch, slot, s)] = vec4(inverse, select(r, 0.0, sum == 0.0), 0.0, 0.0);
}
