// Queries own no values.
fn store_value(work: Work, i: u32, column: u32, x: vec4<f32>) {
}
