// Nothing is added to the scores.
fn bias_of(work: Work, head: u32, query: u32, key: u32) -> f32 {
    return 0.0;
}

