// Every batch has seq_q queries of its own.
fn rows_of(batch: u32) -> Rows {
    return Rows(0u, params.seq_q);
}

