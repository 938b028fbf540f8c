// Keys enter the state that queries behind them read.
//
// row_at: strides.wgsl; rotate: linear_attention.wgsl; key_features: keys.wgsl; load_v: io/*.wgsl

// Heads whose rows may enter the state of a kv head, and whether those of one do.
fn sources() -> u32 {
    return 1u;
}

fn enters(kv_head: u32, source: u32) -> bool {
    return true;
}

// Rotated features of a group of a row that exists.
fn entering_features(batch: u32, kv_head: u32, source: u32, s: u32, group: u32) -> vec4<f32> {
    let row = row_at(params.k, batch, kv_head, s);
    return vec4(
        rotate(key_features(row, 2u * group), params.plane_k, batch, s, 2u * group),
        rotate(key_features(row, 2u * group + 1u), params.plane_k, batch, s, 2u * group + 1u),
    );
}

fn entering_value(batch: u32, kv_head: u32, source: u32, s: u32, column: u32) -> vec4<f32> {
    return load_v(row_at(params.v, batch, kv_head, s) + column);
}
