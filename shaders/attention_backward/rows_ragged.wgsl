// Queries of all sequences lie one behind the other.
@group(0) @binding(12) var<storage, read> cu_seqlens_q: array<u32>; // [B + 1], first row of each

// Bad lengths are clamped: they lose rows and never leave the tensor.
fn rows_of(batch: u32) -> QueryRows {
    let first = min(cu_seqlens_q[batch], params.total_q);
    let end = clamp(cu_seqlens_q[batch + 1u], first, params.total_q);
    return QueryRows(first, min(end - first, params.seq_q));
}
