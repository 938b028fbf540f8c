// The bias, if there is one, gets no gradient.
fn store_d_bias(work: Work, stream: u32, query: u32, key: u32, x: f32) {
}
