// [B] keys of each sequence, those that are gone included
@group(0) @binding(10) var<storage, read> kv_lens: array<u32>;

fn kv_len(batch: u32) -> u32 {
    return kv_lens[batch];
}
