// A piece of K is what the cache stores at once.

fn turn_of(batch: u32, s: u32, piece: u32) -> CosSin {
    return CosSin(vec4(1.0), vec4(0.0)); // not used
}

fn append_key(row: u32, source: Source, piece: u32) {
    store_key(row, source, piece);
}
