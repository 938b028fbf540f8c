// The first keys of a sequence are visible to each other, beside what causal mask and window show.

fn prefix_of(batch: u32) -> u32 {
    return min(prefix_len(batch), params.seq_k);
}

// The last key before the window of a query at this place.
fn before_window(prefix: i32, place: i32) -> i32 {
    return select(place - params.window, -1, place < prefix);
}

