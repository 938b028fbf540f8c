// Keys of all sequences lie one behind the other.
@group(0) @binding(10) var<storage, read> cu_seqlens_k: array<u32>; // [B + 1], first row of each sequence

fn first_key(batch: u32) -> u32 {
    return min(cu_seqlens_k[batch], params.extent_k);
}

// Bad lengths are clamped: they lose keys and never leave the tensor.
fn keys_of(batch: u32) -> u32 {
    let first = first_key(batch);
    return min(clamp(cu_seqlens_k[batch + 1u], first, params.extent_k) - first, params.seq_k);
}

fn k_row(batch: u32, key: u32) -> u32 {
    return (first_key(batch) + key) * params.k.row;
}

fn v_row(batch: u32, key: u32) -> u32 {
    return (first_key(batch) + key) * params.v.row;
}

