// Queries are rotated on their way into workgroup memory.
fn rotate_query(x: Pairs, batch: u32, place: i32, u: u32) -> Pairs {
    let t = query_turn(batch, place, u);
    return Pairs(x.a * t.cos - x.b * t.sin, x.b * t.cos + x.a * t.sin);
}
