@group(0) @binding(5) var<storage, read_write> partials: array<f32>; // out [splits, B, H_out, S_q, D_v], and from params.lse_at on lse [splits, B, H_out, S_q]

fn partial_row(split: u32, batch: u32, head: u32, i: u32) -> u32 {
    return ((split * params.batch + batch) * params.heads_out + head) * params.seq_q + i;
}

fn store_row(split: u32, batch: u32, head: u32, i: u32, column: u32, x: vec4<f32>) {
    let at = partial_row(split, batch, head, i) * VALUE_DIM + 4u * column;
    partials[at] = x.x;
    partials[at + 1u] = x.y;
    partials[at + 2u] = x.z;
    partials[at + 3u] = x.w;
}

fn store_lse(split: u32, batch: u32, head: u32, i: u32, x: f32) {
    partials[params.lse_at + partial_row(split, batch, head, i)] = x;
}

