// Where the rows of a tile's keys start is worked out once for all of their channels: slots are
// found by a division, and pages in a table.
var<workgroup> places: array<vec2<u32>, BLOCK_K>; // rows of K and of V

fn stage_places(tid: u32, work: Work, first: u32) {
    for (var i = tid; i < BLOCK_K; i += THREADS) {
        places[i] = rows_of_key(work, first + i);
    }
}

// Tiles begin at multiples of BLOCK_K.
fn key_row(work: Work, key: u32) -> u32 {
    return places[key % BLOCK_K].x;
}

fn value_row(work: Work, key: u32) -> u32 {
    return places[key % BLOCK_K].y;
}
