// [B + 1], first row of each sequence
@group(0) @binding(10) var<storage, read> cu_seqlens_k: array<u32>;

fn first_key_row(i: u32) -> u32 {
    return cu_seqlens_k[i];
}
