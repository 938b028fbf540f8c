// Gradients of rotated features on their way out: turned back, joined by what the denominator owes
// the plain ones, and times the slope of the feature map.
//
// rotate, channels_*: linear_attention.wgsl; pair_cos_sin: linear_attention/table*.wgsl

// dq [B, H_q, S_q, D], dk [B, H_kv, S_k, D] or dv [B, H_kv, S_k, D_v], by strides
@group(0) @binding(19) var<storage, read_write> grad: array<f32>;

// The transposed rotation, the table's scale included.
fn rotate_back(x: vec2<f32>, plane: u32, batch: u32, s: u32, unit: u32) -> vec2<f32> {
    if (unit >= PAIRS) {
        return x;
    }
    let t = pair_cos_sin(plane, batch, s, unit);
    return vec2(x.x * t.x + x.y * t.y, x.y * t.x - x.x * t.y);
}

// Features of a unit turned by +φ, which undoes the turn of a query by −φ.
fn turn_back(x: vec2<f32>, head: Head, unit: u32) -> vec2<f32> {
    if (unit >= PAIRS) {
        return x * head.cos;
    }
    return x * head.cos + vec2(-x.y, x.x) * head.sin;
}

// A feature of z or y at a row.
fn z_of(work: Work, s: u32, channel: u32) -> f32 {
    var z = work.state + FEATURE_DIM * VALUE_QUADS;
    if (CAUSAL) {
        z = z_place(work.batch, work.kv_head, s, own_rows());
    }
    return workspace[z + channel / 4u][channel % 4u];
}

// Entries of a state of the features of a group and the four values of a quad: the features of each
// value, or the values of each feature.
fn state_features(work: Work, group: u32, quad: u32) -> mat4x4<f32> {
    let a = channels_written(2u * group);
    let b = channels_written(2u * group + 1u);
    let at = work.state + quad;
    return mat4x4<f32>(
        workspace[at + a.x * VALUE_QUADS],
        workspace[at + a.y * VALUE_QUADS],
        workspace[at + b.x * VALUE_QUADS],
        workspace[at + b.y * VALUE_QUADS],
    );
}

fn key_group(work: Work, s: u32, group: u32) -> vec4<f32> {
    let row = row_at(params.k, work.batch, work.kv_head, s);
    return vec4(
        rotate(key_features(row, 2u * group), params.plane_k, work.batch, s, 2u * group),
        rotate(key_features(row, 2u * group + 1u), params.plane_k, work.batch, s, 2u * group + 1u),
    );
}
