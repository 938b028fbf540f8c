// Queries were rotated before the call, and the gradients are those of rotated vectors.
fn rotate_query(x: Pairs, work: Work, s: u32, quad: u32) -> Pairs {
    return x;
}

fn turned_back(x: Pairs, work: Work, i: u32, quad: u32) -> Pairs {
    return x;
}
