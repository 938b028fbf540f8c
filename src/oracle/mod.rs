//! The formulas, in f64, naive. Knows no tiles, no kernels and no GPU.
