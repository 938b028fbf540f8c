enable f16;
enable wgpu_cooperative_matrix;

// Matrices of 16 x 16.
const M: u32 = 16u;
alias MatA = coop_mat16x16<f16, A>;
alias MatB = coop_mat16x16<f16, B>;
alias MatC = coop_mat16x16<f32, C>;

const SHRUNK_STAGED: bool = false;

// 2^-11 of sums of products, and of weights.
fn shrunk_sums(s: MatC) -> MatC {
    return s * 0.00048828125f;
}

fn shrunk_weights(high: MatA, staged: MatA) -> MatA {
    return high * f16(0.00048828125);
}
