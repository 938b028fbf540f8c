// Two channels an entry, f16. A store keeps the other channel of its word, so an invocation must
// own whole words.
alias Stored = u32;

fn load_channel(is_k: bool, i: u32) -> f32 {
    let pair = unpack2x16float(load_stored(is_k, i / 2u));
    return select(pair.x, pair.y, i % 2u == 1u);
}

fn store_channel(is_k: bool, i: u32, x: f32) {
    let half = pack2x16float(vec2(x, 0.0));
    let old = load_written(is_k, i / 2u);
    let word = select((old & 0xffff0000u) | half, (old & 0xffffu) | (half << 16u), i % 2u == 1u);
    store_stored(is_k, i / 2u, word);
}

