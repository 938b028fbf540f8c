// An invocation reads all channels of its own keys and of no others.

fn key_lane(tid: u32) -> u32 {
    return 0u;
}

fn of_lane(row: u32, distance: u32) -> u32 {
    return row;
}

fn with_lane(mine: f32, other: f32, distance: u32) -> f32 {
    return mine;
}
