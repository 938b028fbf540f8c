// dv: Tᵀ Rφ(k), and (Rφ(q) · Rφ(k)) e of the chunk's queries.
//
// e_of: e.wgsl; query_group: query_group.wgsl; key_group, state_features: features.wgsl

const INNER_GROUPS: u32 = GROUPS;
const COLUMN_QUADS: u32 = VALUE_QUADS;

fn own(work: Work, s: u32, g: u32) -> vec4<f32> {
    return key_group(work, s, g);
}

fn walked(work: Work, s: u32, g: u32) -> vec4<f32> {
    return query_group(work, s, g);
}

fn column_of(work: Work, s: u32, column: u32) -> vec4<f32> {
    return e_of(work, s, column);
}

// As the rows of a block are transposed on their way into the tile.
fn state_block(work: Work, g: u32, column: u32) -> mat4x4<f32> {
    return transpose(state_features(work, g, column));
}

fn store(work: Work, s: u32, column: u32, x: vec4<f32>) {
    let to = row_at(params.grad, work.batch, work.kv_head, s) + 4u * column;
    for (var n = 0u; n < 4u; n++) {
        grad[to + n] = x[n];
    }
}
