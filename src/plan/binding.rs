//! What shaders call their bindings, and the number of each: one name, one number, in all kernels.

/// One constant a name, and the list of them all.
macro_rules! bindings {
    ($($number:literal: $($constant:ident $name:literal),+;)+) => {
        $($(pub(crate) const $constant: u32 = $number;)+)+

        /// Name and number of every binding that a shader may have.
        pub(super) const ALL: &[(&str, u32)] = &[$($(($name, $number)),+),+];
    };
}

bindings! {
    0: PARAMS "params";
    // Tables of heads, and what stands in their place.
    1: HEAD_ROWS "head_rows", HEADS "heads", CHOSEN "chosen", SINKS "sinks";
    2: Q "q", Q_IN "q_in", PARTS "parts";
    3: K "k", K_IN "k_in", LSE_PARTS "lse_parts";
    4: V "v";
    5: OUT "out", Q_OUT "q_out", K_CACHE "k_cache", PARTIALS "partials", WINDOW "window",
        ROWS "rows";
    6: OUT_IM "out_im", K_OUT "k_out", V_CACHE "v_cache", WORKSPACE "workspace", FEATURES "features";
    7: LSE "lse", STATE_S "state_s";
    8: COS_SIN "cos_sin";
    9: POSITION_IDS "position_ids";
    10: KV_LENS "kv_lens", CU_SEQLENS_K "cu_seqlens_k", LENS "lens", LISTS "lists", MOVES "moves",
        STATE_Z "state_z";
    11: BLOCK_TABLE "block_table", PROJECTION "projection";
    12: CU_SEQLENS_Q "cu_seqlens_q";
    13: BIAS "bias", MASK "mask";
    14: PREFIX_LENS "prefix_lens";
    15: BLOCKS "blocks";
    16: STATE "state";
    17: D_OUT "d_out";
    18: D_LSE "d_lse";
    19: GRAD "grad", D_SINKS "d_sinks";
    20: DV "dv";
    21: KEY_POSITION_IDS "key_position_ids";
    22: D_BIAS "d_bias";
}

/// The highest number.
#[cfg(feature = "wgpu")]
pub(crate) const LAST: u32 = {
    let (mut last, mut n) = (0, 0);
    while n < ALL.len() {
        last = if ALL[n].1 > last { ALL[n].1 } else { last };
        n += 1;
    }
    last
};
