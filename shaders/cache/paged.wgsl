// [B, max_pages] pages of each sequence
@group(0) @binding(11) var<storage, read> block_table: array<u32>;

// Plane and row of a slot of a sequence: the page that holds it. A bad table may name any page.
fn place_of(batch: u32, slot: u32) -> vec2<u32> {
    let entry = min(slot / params.cache.page_size, params.cache.max_pages - 1u);
    return vec2(block_table[batch * params.cache.max_pages + entry], slot % params.cache.page_size);
}

