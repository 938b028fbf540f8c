enable f16;
enable wgpu_cooperative_matrix;

// Matrices of 8 x 8.
const M: u32 = 8u;
alias MatA = coop_mat8x8<f16, A>;
alias MatB = coop_mat8x8<f16, B>;
alias MatC = coop_mat8x8<f32, C>;

// 2^-11 of queries and weights. Metal has no product of a matrix and a number: they come staged.
const SHRUNK_STAGED: bool = true;

fn shrunk_sums(s: MatC) -> MatC {
    return s;
}

fn shrunk_weights(high: MatA, staged: MatA) -> MatA {
    return staged;
}
