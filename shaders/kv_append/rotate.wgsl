// Keys are rotated on their way into the cache.

override PAIRS: u32;
override BLOCK_PAIRS: u32;       // pairs of one half-split block
override READ_INTERLEAVED: bool;
override WRITE_INTERLEAVED: bool;
override BY_QUADS: bool;         // half-split, and no group of four channels straddles two parts

fn key_channel(source: Source, d: u32) -> f32 {
    return load_k(source.k + d / 4u)[d % 4u];
}

// First channel of pair j in a half-split head; the second lies BLOCK_PAIRS behind.
fn half_member(j: u32) -> u32 {
    return j + j / BLOCK_PAIRS * BLOCK_PAIRS;
}

// Channel d of the rotated key.
fn rotated_channel(source: Source, d: u32) -> f32 {
    if (d >= 2u * PAIRS) {
        return key_channel(source, d);
    }
    var j = d / (2u * BLOCK_PAIRS) * BLOCK_PAIRS + d % BLOCK_PAIRS;
    var second = d % (2u * BLOCK_PAIRS) >= BLOCK_PAIRS;
    if (WRITE_INTERLEAVED) {
        j = d / 2u;
        second = d % 2u == 1u;
    }
    var a = half_member(j);
    var b = a + BLOCK_PAIRS;
    if (READ_INTERLEAVED) {
        a = 2u * j;
        b = a + 1u;
    }
    let x = key_channel(source, a);
    let y = key_channel(source, b);
    let t = cos_sin_of(params.plane_k, source.batch, source.s, j);
    return select(x * t.x - y * t.y, y * t.x + x * t.y, second);
}

fn key_quad(source: Source, quad: u32) -> vec4<f32> {
    let d = 4u * quad;
    if (d >= 2u * PAIRS) {
        return load_k(source.k + quad);
    }
    if (BY_QUADS) {
        let j = d / (2u * BLOCK_PAIRS) * BLOCK_PAIRS + d % BLOCK_PAIRS;
        let a = half_member(j);
        let x = load_k(source.k + a / 4u);
        let y = load_k(source.k + (a + BLOCK_PAIRS) / 4u);
        let t = cos_sin_quad(params.plane_k, source.batch, source.s, j / 4u);
        return select(x * t.cos - y * t.sin, y * t.cos + x * t.sin, d != a);
    }
    return vec4(
        rotated_channel(source, d),
        rotated_channel(source, d + 1u),
        rotated_channel(source, d + 2u),
        rotated_channel(source, d + 3u),
    );
}

