// What the passes of a backward call share. With e_i = dO_i / den_i and r_i = −Σ_c e_ic out_ic,
// where out_i = num_i / den_i is what the forward pass wrote, and sums over j ≤ i under a causal
// mask:
//
//     dφ(q)_i = R_iᵀ S_i e_i + r_i z_i         S_i = Σ R_jφ(k_j) v_jᵀ    z_i = Σ φ(k_j)
//     dφ(k)_j = R_jᵀ T_j v_j + y_j             T_j = Σ R_iφ(q_i) e_iᵀ    y_j = Σ r_i φ(q_i)
//     dv_j    = T_jᵀ R_jφ(k_j)                 dq = dφ(q) φ'(q), dk = dφ(k) φ'(k)
//
// T and y are the gradients of the state: what is owed to it by the queries that read it. Their
// chunks are scanned from the last one to the first.
//     sums, scan       of the keys: S and z before each chunk, as in the forward pass
//     running          z at every row of a chunk
//     rows             1 / den and r of every output row
//     sums, scan       of the queries: T and y behind each chunk
//     running          y at every row
//     gradients        dq, dk and dv of a chunk, from a state and its own rows

// (1 / den, r) of output rows, [B, H_out, S_q].
fn row_place(batch: u32, slot: u32, s: u32) -> u32 {
    return params.rows_at + (batch * params.heads_out + slot) * params.seq_q + s;
}

// Where z (or y) at a row of a kv head lies, [B, H_kv, S, GROUPS].
fn z_place(batch: u32, kv_head: u32, s: u32, seq: u32) -> u32 {
    return params.z_at + ((batch * params.kv_heads + kv_head) * seq + s) * GROUPS;
}
