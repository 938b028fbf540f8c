// One split: its result is the result. A sum of 0 has no key: the output is zero then.
fn store_result(at: Output, x: vec4<f32>, m: f32, l: f32, sink: f32) {
    var sum = Sum(m, l, 1.0);
    if (SINKS) {
        sum = with_sink(m, l, sink);
    }
    store_out(row_at(params.out, at.batch, at.head, at.row) + at.column,
        select(x * (sum.scale / sum.l), vec4(0.0), sum.l == 0.0));
    if (at.column == 0u) {
        store_lse(at, log_sum_exp(sum.m, sum.l, params.minus_infinity));
    }
}
