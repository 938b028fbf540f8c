// Keys lie in a cache that is paged, rolls, or both.

const MOST_KEYS: u32 = 0x1fffffffu; // places have room in an i32, whatever is added to them

// A bad length never leaves the sequence's own slots.
fn keys_of(batch: u32) -> u32 {
    if (params.cache.rolling != 0u) {
        return min(kv_len(batch), MOST_KEYS);
    }
    return min(kv_len(batch), params.seq_k);
}

// The first key that is still there.
fn oldest_of(keys: u32) -> u32 {
    if (params.cache.rolling != 0u) {
        return keys - min(keys, params.cache.capacity);
    }
    return 0u;
}

// The last key that a row does not see, of those before its window and those that are gone.
fn hidden_up_to(keys: u32, before_window: i32) -> i32 {
    return max(before_window, i32(oldest_of(keys)) - 1);
}
