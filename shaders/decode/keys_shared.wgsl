// KEY_LANES invocations share their keys: those whose numbers in the subgroup differ in the last
// KEY_LEVELS bits alone. Any subgroup of as many lanes or more will do, whichever invocations of
// the workgroup are in it.

// The place of an invocation among those with which it shares keys.
fn key_lane(tid: u32) -> u32 {
    var lane = 0u;
    for (var distance = 1u; distance < KEY_LANES; distance++) {
        lane += select(0u, 1u, subgroupShuffleXor(tid, distance) < tid);
    }
    return lane;
}

// The row of the key of the lane that far from this one.
fn of_lane(row: u32, distance: u32) -> u32 {
    return subgroupShuffleXor(row, distance);
}

// A sum of this lane, and what the lane that far from this one has of the same key.
fn with_lane(mine: f32, other: f32, distance: u32) -> f32 {
    return mine + subgroupShuffleXor(other, distance);
}
