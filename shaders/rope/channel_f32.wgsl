// One channel an entry, f32.
alias Stored = f32;

fn load_channel(is_k: bool, i: u32) -> f32 {
    return load_stored(is_k, i);
}

fn store_channel(is_k: bool, i: u32, x: f32) {
    store_stored(is_k, i, x);
}

