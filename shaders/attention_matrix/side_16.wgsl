enable f16;
enable wgpu_cooperative_matrix;

// Matrices of 16 x 16.
const M: u32 = 16u;
alias MatA = coop_mat16x16<f16, A>;
alias MatB = coop_mat16x16<f16, B>;
alias MatC = coop_mat16x16<f32, C>;

const SHRUNK_STAGED: bool = false;

// Sums and 2^-11 of others.
fn joined(s: MatC, low: MatC) -> MatC {
    return s + low * 0.00048828125f;
}

// 2^-11 of a left operand.
fn shrunk(high: MatA, staged: MatA) -> MatA {
    return high * f16(0.00048828125);
}
