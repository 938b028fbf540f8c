// The caller does not ask for the log-sum-exp.
fn store_lse(split: u32, batch: u32, head: u32, i: u32, x: f32) {
}

