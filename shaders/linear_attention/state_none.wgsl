// The call starts from nothing, and nothing goes on from it.
fn state_before(plane: u32, i: u32) -> vec4<f32> {
    return vec4(0.0);
}

fn store_state(plane: u32, i: u32, x: vec4<f32>) {
}
