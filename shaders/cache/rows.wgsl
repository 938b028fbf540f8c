// Where the rows of a cache lie. Shared by the kernels that write and read it; each has a member
// `cache: Cache` in its `params`.

// Offset and strides, in groups of four channels or, quantised, in words.
struct Rows {
    offset: u32,
    plane: u32, // sequence, or page
    head: u32,
    row: u32,
}

struct Cache {
    capacity: u32,  // slots of a sequence
    rolling: u32,   // 1: slots are used again and again
    planes: u32,    // sequences or pages
    page_size: u32, // rows of a page
    max_pages: u32, // entries of the block table a sequence
    pad0: u32,
    pad1: u32,
    pad2: u32,
    k: Rows,
    v: Rows,
}

fn row_at(rows: Rows, place: vec2<u32>, head: u32) -> u32 {
    return rows.offset + place.x * rows.plane + head * rows.head + place.y * rows.row;
}

