// A byte for every score; 0 hides a key.
// [B, H_out, S_q, S_k] by strides, four bytes an entry
@group(0) @binding(13) var<storage, read> mask: array<u32>;

fn bias_of(batch: u32, head: u32, query: u32, key: u32) -> f32 {
    let i = params.bias.offset + batch * params.bias.batch + head * params.bias.head
        + query * params.bias.row + key;
    let byte = (mask[i / 4u] >> (8u * (i % 4u))) & 0xffu;
    return select(0.0, MASKED, byte == 0u);
}

