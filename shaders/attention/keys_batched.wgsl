// Every batch has room for seq_k keys of its own.
@group(0) @binding(10) var<storage, read> kv_lens: array<u32>; // [B] keys of each batch

fn keys_of(batch: u32) -> u32 {
    return min(kv_lens[batch], params.seq_k);
}

fn k_row(batch: u32, key: u32) -> u32 {
    return batch * params.k.batch + key * params.k.row;
}

fn v_row(batch: u32, key: u32) -> u32 {
    return batch * params.v.batch + key * params.v.row;
}

