// Keys of all sequences lie one behind the other.
// [B + 1], first row of each sequence
@group(0) @binding(10) var<storage, read> cu_seqlens_k: array<u32>;

// Bad lengths are clamped: they lose keys and never leave the tensor.
fn keys_of(batch: u32) -> QueryRows {
    let first = min(cu_seqlens_k[batch], params.extent_k);
    let end = clamp(cu_seqlens_k[batch + 1u], first, params.extent_k);
    return QueryRows(first, min(end - first, params.seq_k));
}
