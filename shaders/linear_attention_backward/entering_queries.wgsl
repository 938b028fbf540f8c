// Queries enter the gradient of the state, of all output heads that read a kv head.
//
// row_at: strides.wgsl; row_place: linear_attention_backward.wgsl; query:
// linear_attention/queries.wgsl; load_d_out: io/*.wgsl

// Rotated features of a group of a row that exists, turned by the head's phase.
fn entering_features(batch: u32, kv_head: u32, source: u32, s: u32, group: u32) -> vec4<f32> {
    let head = heads[source];
    return vec4(
        query(batch, head, s, 2u * group).rotated,
        query(batch, head, s, 2u * group + 1u).rotated,
    );
}

// e
fn entering_value(batch: u32, kv_head: u32, source: u32, s: u32, column: u32) -> vec4<f32> {
    let inverse = workspace[row_place(batch, source, s)].x;
    return load_d_out(row_at(params.d_out, batch, source, s) + column) * inverse;
}
