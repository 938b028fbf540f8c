// M keys by M channels of part n of v, from [key, channel].
fn value_matrix(keys: u32, channels: u32, n: u32) -> MatB {
    let at = V_AT + n * V_QUADS + keys * M * V_ROW + channels * M4;
    return coopLoadT<MatB>(&half_tile[at][0], 4u * V_ROW);
}
