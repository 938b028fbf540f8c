// The query was rotated before the call.
fn rotate_query(x: Pairs, batch: u32, s: u32, quad: u32) -> Pairs {
    return x;
}

