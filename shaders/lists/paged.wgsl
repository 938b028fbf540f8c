// Plane and row of a slot of a sequence, as cache/paged.wgsl has it.
fn place_of(batch: u32, slot: u32) -> vec2<u32> {
    let entry = min(slot / params.cache.page_size, params.cache.max_pages - 1u);
    let page = lists[params.lists.block_table + batch * params.cache.max_pages + entry];
    return vec2(page, slot % params.cache.page_size);
}
