// Both streams of a query head go to `out`, at the heads that the table of head rows names.
fn store_out_im(i: u32, x: vec4<f32>) {
    store_out(i, x);
}

