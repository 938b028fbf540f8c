// How many queries enter the gradient of the state, of which heads, and what they add to y.
//
// row_at: strides.wgsl; row_place: linear_attention_backward.wgsl; feature_map: elu.wgsl; load_q:
// io/*.wgsl

fn rows_entering() -> u32 {
    return params.seq_q;
}

fn sources() -> u32 {
    return params.heads_out;
}

fn enters(kv_head: u32, source: u32) -> bool {
    return heads[source].source / params.group == kv_head;
}

// What y adds up, four channels as they lie in memory: r φ(q).
fn entering_plain(batch: u32, kv_head: u32, s: u32, quad: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var source = 0u; source < params.heads_out; source++) {
        if (enters(kv_head, source)) {
            let x = load_q(row_at(params.q, batch, heads[source].source, s) + quad);
            let f = vec4(feature_map(x.x), feature_map(x.y), feature_map(x.z), feature_map(x.w));
            sum = fma(vec4(workspace[row_place(batch, source, s)].y), f, sum);
        }
    }
    return sum;
}
