// M keys by M channels of v, from [channel, key].
fn value_matrix(keys: u32, channels: u32) -> MatB {
    return coopLoad<MatB>(&half_tile[V_AT + channels * M * V_ROW + keys * M4][0], 4u * V_ROW);
}
