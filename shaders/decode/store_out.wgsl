// One split: its result is the result.
fn store_row(split: u32, batch: u32, head: u32, i: u32, column: u32, x: vec4<f32>) {
    store_out(params.out.offset + batch * params.out.plane + head * params.out.head
        + i * params.out.row + column, x);
}

