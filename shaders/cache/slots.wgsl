// Where the key of a place among a sequence's keys lies in its cache.

fn slot_of(key: u32) -> u32 {
    if (params.cache.rolling != 0u) {
        return key % params.cache.capacity;
    }
    return key;
}

// Plane and row of a key. A page that does not exist reads the last one: a wrong key, never another
// buffer's bytes.
fn key_place(batch: u32, key: u32) -> vec2<u32> {
    let place = place_of(batch, slot_of(key));
    return vec2(min(place.x, params.cache.planes - 1u), place.y);
}
