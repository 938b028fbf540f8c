// [B or 1, ceil(S_q / BLOCK_Q), ceil(S_k / BLOCK_K)], 0: left out
@group(0) @binding(15) var<storage, read> blocks: array<u32>;

fn block_entry(i: u32) -> u32 {
    return blocks[i];
}
