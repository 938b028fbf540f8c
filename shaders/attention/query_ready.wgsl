// The query was rotated before the call.
fn rotate_query(x: Pairs, work: Work, s: u32, quad: u32) -> Pairs {
    return x;
}

