// Where the rows of a key start follows from its number.
fn stage_places(tid: u32, work: Work, first: u32) {
}

fn key_row(work: Work, key: u32) -> u32 {
    return rows_of_key(work, key).x;
}

fn value_row(work: Work, key: u32) -> u32 {
    return rows_of_key(work, key).y;
}
