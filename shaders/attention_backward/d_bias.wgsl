@group(0) @binding(22) var<storage, read_write> d_bias: array<f32>; // [B, H_out, S_q, S_k]

fn store_d_bias(work: Work, stream: u32, query: u32, key: u32, x: f32) {
    if (query < params.seq_q && key < params.seq_k && stream < work.head_row.streams) {
        let head = head_of(work.head_row, stream);
        let row = (work.batch * params.heads_out + head) * params.seq_q + query;
        d_bias[row * params.seq_k + key] = x;
    }
}
