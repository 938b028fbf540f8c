// M keys by M channels of part n of v, from [channel, key].
fn value_matrix(keys: u32, channels: u32, n: u32) -> MatB {
    let at = V_AT + n * V_QUADS + channels * M * V_ROW + keys * M4;
    return coopLoad<MatB>(&half_tile[at][0], 4u * V_ROW);
}
