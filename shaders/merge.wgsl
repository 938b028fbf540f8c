// Merges attention over parts of the keys into attention over all of them:
//     out = Σ e^(lse_p − M) out_p / Σ e^(lse_p − M)      lse = M + ln Σ e^(lse_p − M)
// with M the largest of the lse_p and of the sink, which adds e^(sink − M) to the sum. Parts come
// as outputs with their log-sum-exp (merge/by_lse.wgsl), or, from decode, as the maximum, the sum
// and the outputs that were not divided by it (merge/by_sums.wgsl): lse_p = m_p + ln l_p there.
//
// part_state: merge/by_*.wgsl; load_part: merge/parts_*.wgsl; log_sum_exp: softmax.wgsl;
// store_out: io/out_*.wgsl
//
// One workgroup: WORKGROUP groups of four channels. One invocation: one of them, over all parts in
// their order, AT_ONCE of them on their way together.

override WORKGROUP: u32;
override COLUMNS: u32;  // D_v / 4

const AT_ONCE: u32 = 8u;

struct Params {
    parts: u32,
    batch: u32,
    heads: u32,
    seq: u32,
    groups_x: u32,       // workgroups along x
    store_lse: u32,
    minus_infinity: f32,
    pad: u32,
    part: Strides,         // of parts: part, head counted on over the batches, row
    out: Strides,
}

@group(0) @binding(0) var<uniform> params: Params;
// [H], or shorter, in base 2; MASKED: none
@group(0) @binding(1) var<uniform> sinks: array<vec4<f32>, SINK_QUADS>;
@group(0) @binding(7) var<storage, read_write> lse: array<f32>; // [B, H, S], natural log

@compute @workgroup_size(WORKGROUP)
fn merge(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let item = (group_id.x + group_id.y * params.groups_x) * WORKGROUP + tid;
    let column = item % COLUMNS;
    let row = item / COLUMNS;
    let rows = params.batch * params.heads * params.seq;
    if (row >= rows) {
        return;
    }
    let i = row % params.seq;
    let head = row / params.seq;
    let h = head % params.heads;

    // Without sinks the table is shorter than the heads.
    var sink = MASKED;
    if (h / 4u < SINK_QUADS) {
        sink = sinks[h / 4u][h % 4u];
    }
    var top = sink;
    for (var first = 0u; first < params.parts; first += AT_ONCE) {
        for (var n = 0u; n < AT_ONCE; n++) {
            // Repeating the last part does not change the maximum.
            top = max(top, part_state(min(first + n, params.parts - 1u) * rows + row).x);
        }
    }
    // Nothing to see in any part: the output is zero and the log-sum-exp minus infinity.
    let base = select(top, 0.0, top <= MASKED);
    var sum = exp2(sink - base);
    var x = vec4(0.0);
    let first_part = params.part.offset + head * params.part.head + i * params.part.row + column;
    for (var first = 0u; first < params.parts; first += AT_ONCE) {
        var state: array<vec2<f32>, AT_ONCE>;
        var part: array<vec4<f32>, AT_ONCE>;
        for (var n = 0u; n < AT_ONCE; n++) {
            let p = min(first + n, params.parts - 1u);
            state[n] = part_state(p * rows + row);
            part[n] = load_part(first_part + p * params.part.batch);
        }
        for (var n = 0u; n < AT_ONCE; n++) {
            // The output of an empty part may be anything. `!(x == 0)` and not `x != 0`, which is
            // false of NaN in some targets: a part whose sum is NaN must count.
            if (first + n < params.parts && !(state[n].y == 0.0)) {
                let weight = exp2(state[n].x - base);
                sum += weight * state[n].y;
                x += weight * part[n];
            }
        }
    }
    let inverse = select(1.0 / sum, 0.0, sum == 0.0);
    store_out(params.out.offset + head / params.heads * params.out.batch + h * params.out.head
        + i * params.out.row + column, x * inverse);
    if (params.store_lse != 0u && column == 0u) {
        lse[row] = log_sum_exp(base, sum, params.minus_infinity);
    }
}
