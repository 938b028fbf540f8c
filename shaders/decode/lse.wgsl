@group(0) @binding(7) var<storage, read_write> lse: array<f32>; // [B, H_out, S_q], natural log

fn store_lse(split: u32, batch: u32, head: u32, i: u32, x: f32) {
    lse[(batch * params.heads_out + head) * params.seq_q + i] = x;
}

