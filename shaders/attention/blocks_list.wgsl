// Key tiles that a query tile does not need are left out.
// [B or 1, ceil(S_q / BLOCK_Q), ceil(S_k / BLOCK_K)], 0: left out
@group(0) @binding(15) var<storage, read> blocks: array<u32>;

fn block_visited(batch: u32, tile_q: u32, tile_k: u32) -> bool {
    return blocks[batch * params.blocks_batch + tile_q * params.blocks_row + tile_k] != 0u;
}

