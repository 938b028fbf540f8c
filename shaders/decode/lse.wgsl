@group(0) @binding(7) var<storage, read_write> lse: array<f32>; // [B, H_out, S_q], natural log

fn store_lse(at: Output, x: f32) {
    lse[(at.batch * params.heads_out + at.head) * params.seq_q + at.row] = x;
}
