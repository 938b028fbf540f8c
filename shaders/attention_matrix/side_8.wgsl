enable f16;
enable wgpu_cooperative_matrix;

// Matrices of 8 x 8.
const M: u32 = 8u;
alias MatA = coop_mat8x8<f16, A>;
alias MatB = coop_mat8x8<f16, B>;
alias MatC = coop_mat8x8<f32, C>;
