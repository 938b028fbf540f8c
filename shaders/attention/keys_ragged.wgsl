// Keys of all sequences lie one behind the other.

fn first_key(batch: u32) -> u32 {
    return min(first_key_row(batch), params.cache.capacity);
}

// Bad lengths are clamped: they lose keys and never leave the tensor.
fn keys_of(batch: u32) -> u32 {
    let first = first_key(batch);
    let end = clamp(first_key_row(batch + 1u), first, params.cache.capacity);
    return min(end - first, params.seq_k);
}

// Plane and row of a key.
fn key_place(batch: u32, key: u32) -> vec2<u32> {
    return vec2(0u, first_key(batch) + key);
}

// Where a bias has the number of a key.
fn slot_of(key: u32) -> u32 {
    return key;
}

// The first key that is still there.
fn oldest_of(keys: u32) -> u32 {
    return 0u;
}

// The last key that a row does not see, of those before its window and those that are gone.
fn hidden_up_to(keys: u32, before_window: i32) -> i32 {
    return before_window;
}
