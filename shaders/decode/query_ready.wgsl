// Queries were rotated before the call.
fn rotate_query(x: Pairs, batch: u32, place: i32, u: u32) -> Pairs {
    return x;
}

