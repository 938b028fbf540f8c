// The query is rotated on its way into the tile.
fn rotate_query(x: Pairs, work: Work, s: u32, quad: u32) -> Pairs {
    // Ids have an entry for every row; counted positions start anew in every sequence.
    var place = i32(s);
    if (params.rotary.use_ids != 0u) {
        place += i32(work.rows.first);
    } else if (params.place_among_keys != 0u) {
        place += work.offset;
    }
    let t = query_turn(work.batch, place, quad);
    return Pairs(x.a * t.cos - x.b * t.sin, x.b * t.cos + x.a * t.sin);
}
