// Output heads, and the features of their queries.
//
// rotate, channels_read: linear_attention.wgsl; feature_map: elu.wgsl, mapped.wgsl or the caller's;
// load_q: io/*.wgsl

struct Head {
    source: u32, // query head
    cos: f32,    // of its phase
    sin: f32,
    pad: u32,
}

@group(0) @binding(1) var<uniform> heads: array<Head, HEAD_SLOTS>;

struct Features {
    rotated: vec2<f32>,
    plain: vec2<f32>,
}

// Of a query; rows past the last one repeat it and are never stored.
fn query(batch: u32, head: Head, s: u32, unit: u32) -> Features {
    let row = row_at(params.q, batch, head.source, min(s, params.seq_q - 1u));
    let c = channels_read(unit);
    let a = load_q(row + c.x / 4u)[c.x % 4u];
    let b = load_q(row + c.y / 4u)[c.y % 4u];
    let x = vec2(feature_map(a), feature_map(b));
    let r = rotate(x, params.plane_q, batch, min(s, params.seq_q - 1u), unit);
    var turned = r * head.cos;
    if (unit < PAIRS) {
        turned += vec2(r.y, -r.x) * head.sin;
    }
    return Features(turned, x);
}
