// Strides and offsets count entries of the bound arrays.
struct Params {
    batch: u32,
    seq: u32,
    heads_q: u32,
    heads_k: u32,
    groups_x: u32,       // workgroups along x
    head_blocks: u32,    // blocks of HEAD_BLOCK heads, q and k counted on
    blocks: u32,         // workgroups that share a batch and a head block
    plane_q: u32,        // table plane of q
    plane_k: u32,        // table plane of k
    gain: f32,           // 1, or 1 / m² where the rotation is undone
    direction: f32,      // sign of the angle
    pad: u32,
    q_in: Strides,
    k_in: Strides,
    q_out: Strides,
    k_out: Strides,
    rotary: Rotary,
}

@group(0) @binding(0) var<uniform> params: Params;

// Where one row of one head lies.
struct Row {
    is_k: bool,
    read: u32,
    write: u32,
}

fn row_in(is_k: bool, batch: u32, head: u32, s: u32) -> Row {
    if (is_k) {
        return Row(true, row_at(params.k_in, batch, head, s), row_at(params.k_out, batch, head, s));
    }
    return Row(false, row_at(params.q_in, batch, head, s), row_at(params.q_out, batch, head, s));
}

// Heads are counted on from q to k.
fn row_of(batch: u32, head: u32, s: u32) -> Row {
    if (head < params.heads_q) {
        return row_in(false, batch, head, s);
    }
    return row_in(true, batch, head - params.heads_q, s);
}
