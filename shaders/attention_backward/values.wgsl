@group(0) @binding(20) var<storage, read_write> dv: array<f32>; // [B, H_kv, S_k, D_v] by strides

fn store_value(work: Work, i: u32, column: u32, x: vec4<f32>) {
    let at = own_row(work, params.dv, i) + 4u * column;
    for (var c = 0u; c < 4u; c++) {
        dv[at + c] = x[c];
    }
}
