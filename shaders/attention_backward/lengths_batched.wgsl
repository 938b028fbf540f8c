// Every batch has room for seq_k keys of its own.
@group(0) @binding(10) var<storage, read> kv_lens: array<u32>; // [B] keys of each batch

fn keys_of(batch: u32) -> QueryRows {
    return QueryRows(0u, min(kv_lens[batch], params.seq_k));
}
