// Plane and row of a slot of a sequence: the sequence's own plane.
fn place_of(batch: u32, slot: u32) -> vec2<u32> {
    return vec2(batch, slot);
}

