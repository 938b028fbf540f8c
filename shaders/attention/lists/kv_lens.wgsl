@group(0) @binding(10) var<storage, read> kv_lens: array<u32>; // [B] keys of each sequence, those that are gone included

fn kv_len(batch: u32) -> u32 {
    return kv_lens[batch];
}
