// A piece of K is four pairs, both members, or four channels of the tail: nothing is read twice.

// Without a tail, a compiler sees that there is none.
fn in_tail(piece: u32) -> bool {
    return K_PIECES > PAIRS / 4u && piece >= PAIRS / 4u;
}

fn turn_of(batch: u32, s: u32, piece: u32) -> CosSin {
    if (in_tail(piece)) {
        return CosSin(vec4(1.0), vec4(0.0));
    }
    return cos_sin_quad(params.plane_k, batch, s, piece);
}

fn append_key(row: u32, source: Source, piece: u32) {
    if (in_tail(piece)) {
        let quad = PAIRS / 4u + piece;
        store_key_quad(row + quad, load_k(source.k + quad));
        return;
    }
    let first = half_member(4u * piece) / 4u;
    let second = first + BLOCK_PAIRS / 4u;
    var x: vec4<f32>;
    var y: vec4<f32>;
    if (READ_INTERLEAVED) {
        let lo = load_k(source.k + 2u * piece);
        let hi = load_k(source.k + 2u * piece + 1u);
        x = vec4(lo.xz, hi.xz);
        y = vec4(lo.yw, hi.yw);
    } else {
        x = load_k(source.k + first);
        y = load_k(source.k + second);
    }
    let t = source.turn;
    let a = x * t.cos - y * t.sin;
    let b = y * t.cos + x * t.sin;
    if (WRITE_INTERLEAVED) {
        store_key_quad(row + 2u * piece, vec4(a.x, b.x, a.y, b.y));
        store_key_quad(row + 2u * piece + 1u, vec4(a.z, b.z, a.w, b.w));
    } else {
        store_key_quad(row + first, a);
        store_key_quad(row + second, b);
    }
}
