@group(0) @binding(14) var<storage, read> prefix_lens: array<u32>; // [B]

fn prefix_len(batch: u32) -> u32 {
    return prefix_lens[batch];
}
