// The gradients of the sinks, one workgroup an output head: −Σ exp(sink − lse) δ over all rows, in
// an order that the sizes alone decide.

@group(0) @binding(6) var<storage, read> workspace: array<u32>;
@group(0) @binding(19) var<storage, read_write> d_sinks: array<f32>; // [H_out]

override WORKGROUP: u32;

var<workgroup> sums: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn attention_backward_sinks(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let head = group_id.x + group_id.y * params.groups_x;
    if (head >= params.heads_out) {
        return;
    }
    var sink = MASKED;
    for (var p = 0u; p < params.head_rows; p++) {
        let head_row = head_rows[p];
        for (var stream = 0u; stream < head_row.streams; stream++) {
            if (head_of(head_row, stream) == head) {
                sink = head_row.sinks[stream];
            }
        }
    }
    var sum = 0.0;
    for (var b = 0u; b < params.batch; b++) {
        let first = workspace[5u * b];
        let count = min(workspace[5u * b + 1u], params.seq_q);
        let at = params.rows_at + 2u * (b * params.rows_batch + head * params.rows_head + first);
        for (var row = tid; row < count; row += WORKGROUP) {
            let lse = bitcast<f32>(workspace[at + 2u * row]);
            let delta = bitcast<f32>(workspace[at + 2u * row + 1u]);
            sum -= exp2(sink - lse) * delta;
        }
    }
    sums[tid] = sum;
    workgroupBarrier(); // all sums are written
    if (tid == 0u) {
        var total = 0.0;
        for (var i = 0u; i < WORKGROUP; i++) {
            total += sums[i];
        }
        d_sinks[head] = total;
    }
}
