// Second pass of a backward call, one invocation an output row: its log-sum-exp in base 2, and
//     δ = Σ_c dO_c O_c − dLSE
// A row that sees no key has a log-sum-exp of −∞: it is given one that makes every weight 0.

@group(0) @binding(6) var<storage, read_write> workspace: array<u32>;
@group(0) @binding(7) var<storage, read> lse: array<f32>;   // [B, H_out, S_q], [H_out, rows]
@group(0) @binding(18) var<storage, read> d_lse: array<f32>; // likewise

override WORKGROUP: u32;

@compute @workgroup_size(WORKGROUP)
fn attention_backward_rows(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let i = (group_id.x + group_id.y * params.groups_x) * WORKGROUP + tid;
    let row = i % params.total_q;
    let head = i / params.total_q % params.heads_out;
    let batch = i / (params.total_q * params.heads_out);
    if (batch >= params.q_batches) {
        return;
    }
    let out_at = row_at(params.out, batch, head, row);
    let d_out_at = row_at(params.d_out, batch, head, row);
    var sum = vec4(0.0);
    for (var c = 0u; c < VALUE_DIM / 4u + params.zero; c++) {
        sum = fma(load_d_out(d_out_at + c), load_out(out_at + c), sum);
    }
    var delta = (sum.x + sum.y) + (sum.z + sum.w);
    if (D_LSE) {
        delta -= d_lse[i];
    }
    let l = lse[i];
    let dead = bitcast<u32>(l) == 0xff800000u;
    workspace[params.rows_at + 2u * i] = bitcast<u32>(select(in_base_2(l), DEAD, dead));
    workspace[params.rows_at + 2u * i + 1u] = bitcast<u32>(select(delta, 0.0, dead));
}
