// Where the rows of a cache lie. Shared by the kernels that write and read it; each has a member
// `cache: Cache` in its `params`.

struct Cache {
    capacity: u32,  // slots of a sequence
    rolling: u32,   // 1: slots are used again and again
    planes: u32,    // sequences or pages
    page_size: u32, // rows of a page
    max_pages: u32, // entries of the block table a sequence
    pad0: u32,
    pad1: u32,
    pad2: u32,
    k: Strides,
    v: Strides,
}

// Row of a plane: a sequence, or a page.
fn row_of(side: Strides, place: vec2<u32>, head: u32) -> u32 {
    return row_at(side, place.x, head, place.y);
}

