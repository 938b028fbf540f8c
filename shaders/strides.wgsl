// Where the rows of a tensor lie: offset and strides, in entries of the bound array (groups of four
// channels, words, or single numbers).
struct Strides {
    offset: u32,
    batch: u32, // from sequence to sequence, or from page to page
    head: u32,
    row: u32,
}

fn row_at(t: Strides, batch: u32, head: u32, row: u32) -> u32 {
    return t.offset + batch * t.batch + head * t.head + row * t.row;
}
