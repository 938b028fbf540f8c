// Queries of all sequences lie one behind the other.

// Bad lengths are clamped: they lose rows and never leave the tensor.
fn rows_of(batch: u32) -> QueryRows {
    let first = min(first_query_row(batch), params.total_q);
    let end = clamp(first_query_row(batch + 1u), first, params.total_q);
    return QueryRows(first, min(end - first, params.seq_q));
}

