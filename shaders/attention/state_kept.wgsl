// A workgroup that stops between key tiles leaves its softmax states, and a later dispatch takes
// them up: bits that were stored come back as they were.
// [groups of a part, STATE_LEN, THREADS]
@group(0) @binding(16) var<storage, read_write> state: array<vec4<f32>>;

fn kept_state(i: u32) -> vec4<f32> {
    return state[i];
}

fn keep_state(i: u32, x: vec4<f32>) {
    state[i] = x;
}
