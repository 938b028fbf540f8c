// Lengths and tables as ranges of one buffer, for devices that bind few.
// each as it would be by itself, from params.lists on
@group(0) @binding(10) var<storage, read> lists: array<u32>;

fn kv_len(batch: u32) -> u32 {
    if (params.lists.kv_lens == 0xffffffffu) {
        return params.seq_k;
    }
    return lists[params.lists.kv_lens + batch];
}

fn first_key_row(i: u32) -> u32 {
    return lists[params.lists.cu_seqlens_k + i];
}

fn first_query_row(i: u32) -> u32 {
    return lists[params.lists.cu_seqlens_q + i];
}

fn prefix_len(batch: u32) -> u32 {
    return lists[params.lists.prefix_lens + batch];
}

fn block_entry(i: u32) -> u32 {
    return lists[params.lists.blocks + i];
}
