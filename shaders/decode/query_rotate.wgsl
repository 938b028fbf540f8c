// Queries are rotated on their way into workgroup memory.
fn rotate_query(x: Pairs, batch: u32, s: u32, u: u32) -> Pairs {
    let t = cos_sin_quad(0u, batch, s, u);
    return Pairs(x.a * t.cos - x.b * t.sin, x.b * t.cos + x.a * t.sin);
}

