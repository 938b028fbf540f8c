// Key tiles that a query tile does not need are left out.

fn block_visited(batch: u32, tile_q: u32, tile_k: u32) -> bool {
    return block_entry(batch * params.blocks_batch + tile_q * params.blocks_row + tile_k) != 0u;
}

