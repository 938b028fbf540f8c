// M keys by M channels of v, from [key, channel].
fn value_matrix(keys: u32, channels: u32) -> MatB {
    return coopLoadT<MatB>(&half_tile[V_AT + keys * M * V_ROW + channels * M4][0], 4u * V_ROW);
}
