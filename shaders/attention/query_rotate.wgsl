// The query is rotated on its way into the tile.
fn rotate_query(x: Pairs, batch: u32, s: u32, quad: u32) -> Pairs {
    let t = cos_sin_quad(0u, batch, s, quad);
    return Pairs(x.a * t.cos - x.b * t.sin, x.b * t.cos + x.a * t.sin);
}

