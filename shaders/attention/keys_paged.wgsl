// Keys lie in pages of PAGE_SIZE rows: k and v are [pages, H_kv, PAGE_SIZE, D].
@group(0) @binding(10) var<storage, read> kv_lens: array<u32>;     // [B] keys of each sequence
@group(0) @binding(12) var<storage, read> block_table: array<u32>; // [B, table_stride] page of each PAGE_SIZE keys

fn keys_of(batch: u32) -> u32 {
    return min(kv_lens[batch], params.seq_k);
}

// A page that does not exist reads the last one: a wrong key, never another buffer's bytes.
fn page_of(batch: u32, key: u32) -> u32 {
    return min(block_table[batch * params.table_stride + key / PAGE_SIZE], params.extent_k - 1u);
}

fn k_row(batch: u32, key: u32) -> u32 {
    return page_of(batch, key) * params.k.batch + key % PAGE_SIZE * params.k.row;
}

fn v_row(batch: u32, key: u32) -> u32 {
    return page_of(batch, key) * params.v.batch + key % PAGE_SIZE * params.v.row;
}

