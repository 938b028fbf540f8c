// How many keys enter the state, and what they add to z.
//
// row_at: strides.wgsl; feature_map: elu.wgsl, mapped.wgsl or the caller's; load_k: io/*.wgsl

fn rows_entering() -> u32 {
    return params.seq_k;
}

// What z adds up, four channels as they lie in memory.
fn entering_plain(batch: u32, kv_head: u32, s: u32, quad: u32) -> vec4<f32> {
    let x = load_k(row_at(params.k, batch, kv_head, s) + quad);
    return vec4(feature_map(x.x), feature_map(x.y), feature_map(x.z), feature_map(x.w));
}
