// dk: T v, and (e · v) Rφ(q) of the chunk's queries.
//
// e_of: e.wgsl; query_group: query_group.wgsl; state_features, rotate_back, z_of: features.wgsl

const INNER_GROUPS: u32 = VALUE_QUADS;
const COLUMN_QUADS: u32 = GROUPS;

fn own(work: Work, s: u32, g: u32) -> vec4<f32> {
    return load_v(row_at(params.v, work.batch, work.kv_head, s) + g);
}

fn walked(work: Work, s: u32, g: u32) -> vec4<f32> {
    return e_of(work, s, g);
}

fn column_of(work: Work, s: u32, column: u32) -> vec4<f32> {
    return query_group(work, s, column);
}

fn state_block(work: Work, g: u32, column: u32) -> mat4x4<f32> {
    return state_features(work, column, g);
}

fn store(work: Work, s: u32, column: u32, x: vec4<f32>) {
    let k_row = row_at(params.k, work.batch, work.kv_head, s);
    let to = row_at(params.grad, work.batch, work.kv_head, s);
    for (var n = 0u; n < 2u; n++) {
        let unit = 2u * column + n;
        let d = rotate_back(select(x.xy, x.zw, n == 1u), params.plane_k, work.batch, s, unit);
        let c = channels_read(unit);
        for (var m = 0u; m < 2u; m++) {
            let owed = d[m] + z_of(work, s, c[m]);
            grad[to + c[m]] = owed * feature_slope(load_k(k_row + c[m] / 4u)[c[m] % 4u]);
        }
    }
}
