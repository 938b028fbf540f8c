// dq: Σ over a query head's outputs of S e, and (e · v) Rφ(k) of the chunk's keys.
//
// e_of: e.wgsl; key_group, state_features, turn_back, rotate_back, z_of: features.wgsl

const INNER_GROUPS: u32 = VALUE_QUADS;
const COLUMN_QUADS: u32 = GROUPS;

fn own(work: Work, s: u32, g: u32) -> vec4<f32> {
    return e_of(work, s, g);
}

fn walked(work: Work, s: u32, g: u32) -> vec4<f32> {
    return load_v(row_at(params.v, work.batch, work.kv_head, s) + g);
}

fn turned_back(x: vec4<f32>, work: Work, group: u32) -> vec4<f32> {
    let head = heads[work.slot];
    return vec4(turn_back(x.xy, head, 2u * group), turn_back(x.zw, head, 2u * group + 1u));
}

// Heads add up to one gradient, so each is turned back by its own phase first.
fn column_of(work: Work, s: u32, column: u32) -> vec4<f32> {
    return turned_back(key_group(work, s, column), work, column);
}

fn state_block(work: Work, g: u32, column: u32) -> mat4x4<f32> {
    let x = transpose(state_features(work, column, g));
    return transpose(mat4x4<f32>(
        turned_back(x[0], work, column),
        turned_back(x[1], work, column),
        turned_back(x[2], work, column),
        turned_back(x[3], work, column),
    ));
}

fn store(work: Work, s: u32, column: u32, x: vec4<f32>) {
    var r = 0.0;
    for (var slot = 0u; slot < params.heads_out; slot++) {
        if (heads[slot].source == work.own_head) {
            r += workspace[row_place(work.batch, slot, s)].y;
        }
    }
    let q_row = row_at(params.q, work.batch, work.own_head, s);
    let to = row_at(params.grad, work.batch, work.own_head, s);
    for (var n = 0u; n < 2u; n++) {
        let unit = 2u * column + n;
        let d = rotate_back(select(x.xy, x.zw, n == 1u), params.plane_q, work.batch, s, unit);
        let c = channels_read(unit);
        for (var m = 0u; m < 2u; m++) {
            let owed = d[m] + r * z_of(work, s, c[m]);
            grad[to + c[m]] = owed * feature_slope(load_q(q_row + c[m] / 4u)[c[m] % 4u]);
        }
    }
}
