@group(0) @binding(7) var<storage, read> state_s: array<vec4<f32>>;  // [B, H_kv, F, D_v]
@group(0) @binding(10) var<storage, read> state_z: array<vec4<f32>>; // [B, H_kv, F]

// Entry i of the state of a kv head of a batch (a plane). It stays as it is.
fn state_before(plane: u32, i: u32) -> vec4<f32> {
    if (params.resume == 0u) {
        return vec4(0.0);
    }
    if (i < FEATURE_DIM * VALUE_QUADS) {
        return state_s[plane * FEATURE_DIM * VALUE_QUADS + i];
    }
    return state_z[plane * GROUPS + (i - FEATURE_DIM * VALUE_QUADS)];
}

fn store_state(plane: u32, i: u32, x: vec4<f32>) {
}
