// One of several splits: outputs that the merge divides by the sum of all splits, and behind them
// the maximum and the sum of every row. The merge adds sinks, too.

// Outputs [splits, B, H_out, S_q, D_v]; from params.sums_at on maxima in base 2 and sums [.., S_q,
// 2]
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;

fn store_result(at: Output, x: vec4<f32>, m: f32, l: f32, sink: f32) {
    let row = ((at.split * params.batch + at.batch) * params.heads_out + at.head) * params.seq_q
        + at.row;
    let first = row * VALUE_DIM + 4u * at.column;
    partials[first] = x.x;
    partials[first + 1u] = x.y;
    partials[first + 2u] = x.z;
    partials[first + 3u] = x.w;
    if (at.column == 0u) {
        partials[params.sums_at + 2u * row] = m;
        partials[params.sums_at + 2u * row + 1u] = l;
    }
}
