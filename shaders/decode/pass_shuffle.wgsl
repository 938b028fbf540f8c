// Queries, weights and rows of values go from lane to lane of a subgroup, each of which reads one
// of them: for adapters where a lane's access to workgroup memory costs far more than a shuffle.
// Every subgroup has SUB lanes, which are invocations in a row.

const SUB: u32 = SUBGROUP;

// What a lane hands to the others: each its entry of the tile, from the first lane's on.
fn offered(at: u32, stride: u32, tid: u32) -> vec4<f32> {
    return tile[at + tid % SUB * stride];
}

fn offered_row(at: u32, tid: u32) -> u32 {
    return value_rows[at + tid % SUB];
}

// Entry at of the tile, which that lane offers.
fn passed(own: vec4<f32>, at: u32, lane: u32) -> vec4<f32> {
    return subgroupShuffle(own, lane);
}

fn passed_row(own: u32, at: u32, lane: u32) -> u32 {
    return subgroupShuffle(own, lane);
}
