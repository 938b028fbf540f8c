// The first keys of a sequence are visible to each other.
@group(0) @binding(14) var<storage, read> prefix_lens: array<u32>; // [B]

fn prefix_of(batch: u32) -> u32 {
    return min(prefix_lens[batch], params.seq_k);
}
