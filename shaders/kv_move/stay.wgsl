// Keys were never rotated: they move as they are.
fn move_key(tid: u32, from_row: u32, to_row: u32, distance: i32) {
    for (var i = tid; i < K_ENTRIES; i += WORKGROUP) {
        k_cache[to_row + i] = k_cache[from_row + i];
    }
}

