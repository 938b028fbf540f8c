// What an output row passes on: e = dO / den.
//
// row_at: strides.wgsl; row_place: linear_attention_backward.wgsl; load_d_out: io/*.wgsl

fn e_of(work: Work, s: u32, column: u32) -> vec4<f32> {
    let inverse = workspace[row_place(work.batch, work.slot, s)].x;
    return load_d_out(row_at(params.d_out, work.batch, work.slot, s) + column) * inverse;
}
