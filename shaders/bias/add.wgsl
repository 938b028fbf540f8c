// A number for every score, in base e; −∞ hides a key.
@group(0) @binding(13) var<storage, read> bias: array<f32>; // [B, H_out, S_q, S_k] by strides

fn bias_of(batch: u32, head: u32, query: u32, key: u32) -> f32 {
    return in_base_2(bias[params.bias.offset + batch * params.bias.batch
        + head * params.bias.head + query * params.bias.row + key]);
}

