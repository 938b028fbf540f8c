// [B + 1], first row of each sequence
@group(0) @binding(12) var<storage, read> cu_seqlens_q: array<u32>;

fn first_query_row(i: u32) -> u32 {
    return cu_seqlens_q[i];
}
