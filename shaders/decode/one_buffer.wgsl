// Lengths and block table as ranges of one buffer, for devices that bind few.
// each as it would be by itself, from params.lists on
@group(0) @binding(10) var<storage, read> lists: array<u32>;

fn kv_len(batch: u32) -> u32 {
    return lists[params.lists.kv_lens + batch];
}
