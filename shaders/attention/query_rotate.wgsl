// The query is rotated on its way into the tile.
fn rotate_query(x: Pairs, work: Work, s: u32, quad: u32) -> Pairs {
    // Ids have an entry for every row; counted positions start anew in every sequence.
    var place = s;
    if (params.rotary.use_ids != 0u) {
        place += work.rows.first;
    } else if (params.place_among_keys != 0u) {
        place = u32(max(i32(s) + work.offset, 0));
    }
    let t = cos_sin_quad(0u, work.batch, place, quad);
    return Pairs(x.a * t.cos - x.b * t.sin, x.b * t.cos + x.a * t.sin);
}

