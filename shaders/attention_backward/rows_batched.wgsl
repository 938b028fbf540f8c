// Every batch has seq_q queries of its own.
fn rows_of(batch: u32) -> QueryRows {
    return QueryRows(0u, params.seq_q);
}
