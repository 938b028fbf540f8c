enable f16;
enable wgpu_cooperative_matrix;

// Matrices of 8 x 8.
const M: u32 = 8u;
alias MatA = coop_mat8x8<f16, A>;
alias MatB = coop_mat8x8<f16, B>;
alias MatC = coop_mat8x8<f32, C>;

// Metal has neither products of a matrix and a number nor sums of matrices: what is 2^-11 of a left
// operand comes staged.
const SHRUNK_STAGED: bool = true;

fn joined(s: MatC, low: MatC) -> MatC {
    return s;
}

fn shrunk(high: MatA, staged: MatA) -> MatA {
    return staged;
}
