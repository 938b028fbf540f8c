// Queries, weights and rows of values come from workgroup memory whenever they are used.

const SUB: u32 = 2u * ROWS;

fn offered(at: u32, stride: u32, tid: u32) -> vec4<f32> {
    return vec4(0.0);
}

fn offered_row(at: u32, tid: u32) -> u32 {
    return 0u;
}

fn passed(own: vec4<f32>, at: u32, lane: u32) -> vec4<f32> {
    return tile[at];
}

fn passed_row(own: u32, at: u32, lane: u32) -> u32 {
    return value_rows[at];
}
